"""Data files into rows, tokens, and the micro-batches of each step and rank."""
