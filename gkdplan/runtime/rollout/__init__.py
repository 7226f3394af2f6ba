"""Sampling: how a token is picked from logits."""
