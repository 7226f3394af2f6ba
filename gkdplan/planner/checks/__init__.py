"""Rules that a plan keeps: pure generators of findings, none of which raises or mutates."""
