"""Mistral 7B, Nemo, Small: where there is a window, every layer has it."""

from typing import Any

from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.windows import read_windows
from gkdplan.shape import ModelShape


def _read(keys: Keys, num_layers: int) -> dict[str, Any]:
    return {"attention": read_windows(keys, num_layers, lambda layer: True)}


def _write(shape: ModelShape) -> dict[str, object]:
    return {"sliding_window": shape.attention.window}


MISTRAL = Family("mistral", "MistralForCausalLM", read=_read, write=_write)
