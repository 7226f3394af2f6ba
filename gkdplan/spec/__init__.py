"""What the user wrote: the plan's vocabulary, and TOML text read into it."""
