"""What the teacher leaves for the loss."""
