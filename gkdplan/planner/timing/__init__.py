"""Seconds of a step, predicted from FLOPs, bytes and the device table: docs/timing.md."""
