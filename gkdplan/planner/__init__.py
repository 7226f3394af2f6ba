"""Pure functions from a plan and its facts to a run plan and diagnostics: no torch, no I/O."""
