"""What was looked up: model shapes, tokenizers, devices and data files. No torch, no pydantic."""
