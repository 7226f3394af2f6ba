"""Renders what was decided and measured, for a terminal or as a page; it decides nothing."""
