"""Layouts of a plan that keep every rule and fit, ranked by predicted time: docs/search.md."""
