"""A declarative pipeline for Generalized Knowledge Distillation, compiled into a run plan."""

__version__ = "0.1.0"
