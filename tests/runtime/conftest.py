"""Puts this directory on the path, so that tests can import `gloo_ranks`."""
