"""Damage to a model's files: to the values of JSON, to a safetensors header, to the bytes."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, 7, -1, 0.5, -0.0, 10**9, 2**63, 10**400, 1e308, "", "1",
    "float16", "silu",
    "\ud800", "a" * 10_000, "../x", [], [0], [[]], {}, {"": None}, {"type": "yarn"},
]  # fmt: skip


def mutated_json(content: bytes, random: Random) -> bytes:
    """One to three values of the document replaced, doubled, renamed or taken away."""
    document = json.loads(content)
    for _ in range(random.randint(1, 3)):
        _mutate(document, random)
    return json.dumps(document).encode()


def mutated_header(content: bytes, random: Random) -> bytes:
    """A safetensors file whose header is damaged and whose data stays, mostly with its length."""
    length = int.from_bytes(content[:8], "little")
    header = mutated_json(content[8 : 8 + length], random)
    said = random.choice([len(header)] * 6 + [0, length, len(header) + 1, 2**63, 2**64 - 1])
    return said.to_bytes(8, "little") + header + content[8 + length :]


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """A few bytes flipped, cut or put in."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(content) + 1)
        put = random.randbytes(random.choice([0, 1, 1, 4]))
        content = content[:at] + put + content[at + random.choice([0, 1, 1, 9, 400]) :]
    return content


MUTATIONS: dict[str, list[Callable[[bytes, Random], bytes]]] = {
    "config.json": [mutated_json, mutated_json, mutated_bytes],
    "tokenizer.json": [mutated_json, mutated_json, mutated_bytes],
    "model.safetensors": [mutated_header, mutated_header, mutated_bytes],
}


def _mutate(document: Any, random: Random) -> None:
    place = _somewhere(document, random)
    if not place:
        return
    key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
    choice = random.random()
    if choice < 0.2:
        del place[key]
    elif choice < 0.3 and isinstance(place, dict):
        place[f"{key}_"] = place.pop(key)
    elif choice < 0.5 and isinstance(place[key], int):
        place[key] += random.choice([-1, 1, -8, 8])
    elif choice < 0.6:
        place[key] = [place[key], place[key]]
    else:
        place[key] = random.choice(VALUES)


def _somewhere(document: Any, random: Random) -> Any:
    """A table or a list of the document, the outer ones likelier."""
    while random.random() < 0.6:
        values = document.values() if isinstance(document, dict) else document
        inner = [value for value in values if isinstance(value, dict | list) and value]
        if not inner:
            break
        document = random.choice(inner)
    return document if isinstance(document, dict | list) else None
