"""A plan's step at reduced size, on real processes, held against itself on one."""
