"""Config facts of well-known models by hub id, so that a plan can be checked offline.

One file a family, named as its `model_type`. A row holds the keys of the model's config.json that
a ModelShape needs, spelt as there, and the parameter count that its publisher states (a tied head
counts once). A row with `like` is another row with the keys beside it changed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gkdplan.families import FAMILIES
from gkdplan.families.seeing import ARCHITECTURES


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A bundled config, as read_shape takes it, and the published number of parameters."""

    config: Mapping[str, object]
    num_parameters: int


def find_known(hub_id: str) -> KnownModel | None:
    """The bundled facts of a hub id, spelt exactly as on the hub."""
    for family, rows in _tables():
        if hub_id in rows:
            row = rows[hub_id]
            config = {"model_type": family, **rows.get(row.get("like", ""), {}), **row}
            config.pop("like", None)
            return KnownModel(config, num_parameters=config.pop("num_parameters"))
    return None


def known_ids() -> tuple[str, ...]:
    """Every hub id with bundled facts."""
    return tuple(hub_id for _, rows in _tables() for hub_id in rows)


def _tables() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    for family in (*FAMILIES, *ARCHITECTURES):
        path = os.path.join(os.path.dirname(__file__), f"{family}.json")
        with open(path, encoding="utf-8") as file:
            yield family, json.load(file)
