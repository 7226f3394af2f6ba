"""Ranks that others started, on hosts of their own: how they meet, and who of them is lost."""
