"""What pydantic refused, said in the plan's own words: unknown, wrong and missing keys."""

import difflib
import re
from collections.abc import Iterator
from math import isfinite
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.spec.places import Path
from gkdplan.spec.repair import repair
from gkdplan.spec.source import Source
from gkdplan.spec.toml_words import format_path, format_value
from gkdplan.spec.vocabulary import Node, describe, every_key, keys_of, node_at

OTHER_NAMES = {
    "learning_rate": "optimizer.lr",
    "lambda": "distill.lmbda",
    "batch_size": "batch.micro",
    "max_new_tokens": "generation.max_completion_length",
    "max_steps": "run.steps",
    "num_train_epochs": "run.epochs",
    "output_dir": "run.output",
    "dataset": "data.train",
    "tensor_model_parallel_size": "student.parallel.tensor",
    "pipeline_model_parallel_size": "student.parallel.pipeline",
    "sequence_parallel": "student.parallel.sequence",
}
"""What other tools call our keys."""


def findings_of(failure: ValidationError, source: Source) -> list[Diagnostic]:
    """GK002, GK003 and GK004, one for each key, each at its place."""
    findings: dict[str | None, Diagnostic] = {}
    for refusal in failure.errors(include_url=False, include_context=False):
        finding = _finding(refusal["type"], refusal["loc"], source)
        findings.setdefault(finding.path, finding)
    return list(findings.values())


def _finding(kind: str, path: Path, source: Source) -> Diagnostic:
    known = _known(path)
    if kind == "extra_forbidden":
        return _unknown(path, source)
    if kind == "missing" and known == path and isinstance(path[-1], str):
        return _missing(path, source)
    return _wrong(known if source.at(known) is not None else known[:-1], source)


def _known(path: Path) -> Path:
    """The path without what pydantic adds for the branch of a union that it tried."""
    while node_at(path) is None:
        path = path[:-1]
    return path


def _unknown(path: Path, source: Source) -> Diagnostic:
    *parents, key = path
    table, key = tuple(parents), str(key)
    where = f"in `{format_path(table)}`" if table else "at the top of the plan"
    kind = "table" if isinstance(source.at(path), dict) else "key"
    return error(
        "GK002",
        f"unknown {kind} `{format_path((key,))}` {where}",
        format_path(path),
        label="not a key of this table" if table else "not a key here",
        notes=(f"the keys here are {_listed(keys_of(table))}",),
        help=tuple(_instead(table, key)),
    ).at(source.locate_key(path))


def _instead(table: Path, key: str) -> Iterator[str]:
    """The nearest known keys: of this table, then of the others."""
    if key in OTHER_NAMES:
        yield f"it is called `{OTHER_NAMES[key]}` here"
        return
    elsewhere = every_key().get(key, [])
    near = difflib.get_close_matches(key, keys_of(table), n=1)
    if near:
        yield f"did you mean `{near[0]}`?"
    if elsewhere:
        yield f"`{key}` exists as {_listed(elsewhere, 'or')}"
    if not near and not elsewhere:
        for other in difflib.get_close_matches(key, every_key(), n=1):
            yield f"did you mean {_listed(every_key()[other], 'or')}?"


def _wrong(path: Path, source: Source) -> Diagnostic:
    node, value = node_at(path) or {}, source.at(path)
    name = format_path(path)
    return error(
        "GK003",
        f"`{name}` must be {describe(node)}",
        name,
        label=_fault(node, value),
        notes=tuple(_meaning(node)),
        help=tuple(_mend(path, node, value)),
    ).at(source.locate_value(path))


def _fault(node: Node, value: Any) -> str:
    """What the value is instead, for the caret."""
    match value:
        case dict():
            return "this is a table"
        case [] | "":
            return "this is empty"
        case list():
            return f"this has {len(value)}" if "prefixItems" in node else "this is an array"
        case _ if "enum" in node or "const" in node:
            return "not one of them"
        case bool():
            return "this is a boolean"
        case str():
            return "not of this form" if "pattern" in node else "this is a string"
        case float() if node.get("type") == "integer":
            return "this is a float"
        case int() | float() if node.get("type") in ("string", "array", "object"):
            return "this is a number"
        case int() | float() if isfinite(value):
            too_large = node.get("maximum", 0) > 1 and value > node["maximum"]
            return f"above {node['maximum']:,}" if too_large else "out of range"
        case int() | float():
            return "not finite"
        case _:
            return "this is a date or time"


def _mend(path: Path, node: Node, value: Any) -> Iterator[str]:
    key = path[-1]
    better = repair(node, value)
    if better and better != format_value(value):
        yield (
            f"write `{better}` in its place"
            if isinstance(key, int)
            else f"write `{key} = {better}`"
        )
    elif "properties" in node:
        yield f"write its keys below a header, `[{format_path(path)}]`"
    elif "default" in node:
        yield f"leave `{key}` out for the default, `{format_value(node['default'])}`"


def _missing(path: Path, source: Source) -> Diagnostic:
    *parents, key = path
    table = tuple(parents)
    name = format_path(path)
    node = node_at(path) or {}
    return error(
        "GK004",
        f"`{name}` is missing",
        name,
        label=f"no `{key}` in this table" if table else "",
        notes=tuple(_meaning(node)),
        help=(_addition(table, str(key), node, source),),
    ).at(source.locate_value(table))


def _addition(table: Path, key: str, node: Node, source: Source) -> str:
    if "properties" in node:
        needed = node.get("required", list(node["properties"])[:1])
        keys = [f"`{required} = ...`" for required in needed]
        return f"add a table `[{format_path((*table, key))}]` with {_listed(keys, quote='')}"
    if table:
        return f"add `{key} = ...` to `[{format_path(table)}]`"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePath(source.file).stem).strip("._-")
    return f'add `{key} = "{stem or "my-run"}"` above the first table'


def _meaning(node: Node) -> Iterator[str]:
    if text := node.get("description"):
        yield text[:1].lower() + text[1:].removesuffix(".")


def _listed(names: list[str], word: str = "and", quote: str = "`") -> str:
    quoted = [f"{quote}{name}{quote}" for name in names]
    return f" {word} ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)
