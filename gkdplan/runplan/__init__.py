"""What was decided: the only thing that the runtime reads."""
