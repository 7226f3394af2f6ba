"""What a run keeps: its directory, whole checkpoints in it, and going on from them."""
