"""Plans that nobody would write: good and bad ones, changed by their schema and by their bytes.

Every choice comes from the generator that is given, so a seed names its plan.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import tomlkit

from gkdplan.spec.vocabulary import plan_schema

Key = tuple[str, ...]

TESTS = Path(__file__).parents[1]
CORPUS = sorted((TESTS / "bad_plans").glob("*.toml")) + sorted(
    (TESTS.parent / "plans").glob("*.toml")
)
NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 64, 2**10, 2**20, 10**9, 0.5, 1e-9, 0.999]
HOSTILE: list[Any] = [
    "", " ", "none", "auto", "cpu", "true", "1", "é\u202e\x1b[31m", "a" * 5000,
    "../../../etc/passwd", "/dev/zero", "/dev/stdin", "~", "$HOME", "file:///etc/passwd", "http://[",
    "http://127.0.0.1:1",
    "\\\\host\\share", "C:\\x", "*", "#", "#0", "#-1", "x#" + "9" * 40, "%s%n{0}", "<script>",
    10**18, -(2**63), 2**63 - 1, 10**30, 1e308, -1e308, 5e-324, float("nan"), float("inf"),
    True, False, [], [[]], {}, [0], [-1], ["", ""], [1, "1"], {"": {}}, [[[[[[1]]]]]], {"a": 1},
]  # fmt: skip
"""Values of the wrong kind, size, place or alphabet."""

WORDS = {
    "model": [
        "models/tiny", "models/tiny", "models/tiny_moe", "models/seeing", "models/foreign",
        "models/bad_sizes", "models/truncated", "Qwen/Qwen2.5-7B-Instruct", "google/gemma-2-2b",
        "models", "nobody/nothing",
    ],
    "device": ["cpu", "h100-80gb", "a100-40gb"],
    "train": [["data/rows.jsonl"], ["data/rows.jsonl#4", "data/rows.jsonl"], ["data/faulty.jsonl"],
              ["data/seeing.jsonl"], ["data"]],
    "eval": [["data/rows.jsonl"], []],
    "layers": [[0, 2], [0, 1, 2, 3], [3, 1]],
    "stage_layers": [[1, 3], [2, 2], [4]],
    "targets": [["all-linear"], ["q_proj", "v_proj"], ["lm_head"]],
    "modules": [["mlp"], ["moe"], ["core_attn"], ["mlp", "layernorm"]],
    "memory_limit": ["2 GiB", "1 B", "100 MiB", "999999999.9 TiB"],
    "betas": [[0.9, 0.95], [0.0, 0.0]],
    "url": ["http://127.0.0.1:8000"],
    "server_url": ["http://127.0.0.1:8000", ["http://127.0.0.1:8000", "http://127.0.0.1:8001"]],
}  # fmt: skip
"""What a person would write, for keys whose type says little."""


def mutated_plan(random: Random) -> str:
    """The text of a plan: gently changed, so that much of it is priced, or wildly."""
    text = random.choice(CORPUS).read_text(encoding="utf-8", errors="replace")
    if random.random() < 0.6:
        return with_other_values(text, random, hostility=0.0)
    text = with_other_values(text, random, hostility=0.3)
    return with_other_characters(text, random) if random.random() < 0.5 else text


def with_other_values(text: str, random: Random, hostility: float) -> str:
    """Some keys of the schema set, put in the wrong table or taken away; else the text as it is."""
    try:
        plan = tomlkit.parse(text).unwrap()
    except tomlkit.exceptions.TOMLKitError:
        return text
    for _ in range(random.randint(1, 6)):
        key, schema = random.choice(KEYS)
        hostile = random.random() < hostility
        table = _table(plan, key[:-1], random if hostile else None)
        if random.random() < 0.15 and table:
            table.pop(random.choice(list(table)))
        elif hostile:
            table[_slip(key[-1], random)] = random.choice(HOSTILE)
        else:
            table[key[-1]] = value_for(key[-1], schema, random)
    return tomlkit.dumps(plan)


def value_for(name: str, schema: dict[str, Any], random: Random) -> Any:
    """Of the key's kind and within its limits."""
    if name in WORDS:
        return random.choice(WORDS[name])
    one = random.choice(schema.get("anyOf", [schema]))
    if "enum" in one or "const" in one:
        return random.choice(one.get("enum") or [one["const"]])
    least, most = one.get("minimum", 0), one.get("maximum", float("inf"))
    allowed = [number for number in NUMBERS if least <= number <= most]
    match one.get("type"):
        case "boolean":
            return random.random() < 0.5
        case "integer":
            return random.choice([number for number in allowed if isinstance(number, int)])
        case "number":
            return random.choice(allowed)
    return "some-text"


def with_other_characters(text: str, random: Random) -> str:
    """Characters cut, doubled or put in; lines moved."""
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(text) + 1)
        length = random.choice([0, 1, 1, 2, 5, 40])
        put = random.choice(
            ["", "", "=", '"', "[", "]]", "\n", "\0", "'''", "\r", "#", "é", ".", "0"]
        )
        piece = text[start : start + length] * random.choice([0, 0, 2])
        text = text[:start] + put + piece + text[start + length :]
    if random.random() < 0.2:
        lines = text.splitlines(keepends=True)
        random.shuffle(lines)
        text = "".join(lines)
    return text


def _keys(schema: dict[str, Any], place: Key = ()) -> Iterator[tuple[Key, dict[str, Any]]]:
    for name, inner in schema.get("properties", {}).items():
        options = inner.get("anyOf", [inner])
        tables = [option for option in options if "properties" in option]
        for table in tables:
            yield from _keys(table, (*place, name))
        if not tables:
            yield (*place, name), inner


KEYS = list(_keys(plan_schema()))
"""Every key of a plan with its schema."""


def _table(plan: dict[str, Any], place: Key, random: Random | None) -> dict[str, Any]:
    """The table of a key; with a generator, now and then one above it."""
    for name in place:
        inner = plan.setdefault(name, {})
        if not isinstance(inner, dict) or (random and random.random() < 0.1):
            return plan
        plan = inner
    return plan


def _slip(name: str, random: Random) -> str:
    """A key as it is, or with a slip of the finger."""
    at = random.randrange(len(name))
    slips = [name[:at] + name[at + 1 :], name.upper(), f"{name}s", name.replace("_", "-")]
    return random.choice([name] * 12 + slips)
