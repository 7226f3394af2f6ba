"""A YAML for `--config`, or of Ray -> flags; PyYAML's safe loader, so that nothing is executed."""

from typing import Any

import yaml

from gkdplan.diagnostics import Span
from gkdplan.swift.command import Command, Flag, refused

ROLES = ("train", "rollout", "teacher")


def read_yaml(file: str, text: str) -> Command:
    """The keys of a YAML as flags.

    Raises UserError (GK010) where it is no YAML, or no table of keys.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        table = yaml.safe_load(text)
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        place = Span(file, mark.line + 1, mark.column + 1, 1) if mark else None
        reason = getattr(failure, "problem", None) or "it cannot be parsed"
        raise refused(f"`{file}` is not YAML: {reason}", place) from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise refused(f"`{file}` is no table of flags", None, help="each line is `flag: value`")
    groups = {role: table[role] for role in ROLES if isinstance(table.get(role), dict)}
    flags = []
    for key, value in node.value:
        if key.value in groups:
            flags += [_flag(file, inner, said, key.value) for inner, said in value.value]
        elif key.value != "colocate_groups":
            flags.append(_flag(file, key, value, ""))
    return Command(
        file,
        tuple(flag for flag in flags if (flag.name, bool(flag.role)) != ("gpus", True)),
        groups={role: _gpus(file, role, group) for role, group in groups.items()},
        colocated=_shares(table.get("colocate_groups")) or "rollout" not in groups,
    )


def _flag(file: str, key: yaml.Node, value: yaml.Node, role: str) -> Flag:
    """Values as their author wrote them: `1e-6` is a text for YAML, and a number for ms-swift."""
    mark = key.start_mark
    span = Span(file, mark.line + 1, mark.column + 1, len(key.value))
    return Flag(key.value, _words(value), span, role)


def _words(value: yaml.Node) -> tuple[str, ...]:
    match value:
        case yaml.SequenceNode():
            return tuple(word for item in value.value for word in _words(item))
        case yaml.MappingNode():
            return ("{...}",)
    is_null = value.tag == "tag:yaml.org,2002:null"
    return () if is_null else (str(value.value),)


def _gpus(file: str, role: str, group: dict[str, Any]) -> int:
    gpus = group.get("gpus")
    if not isinstance(gpus, int) or gpus < 1:
        raise refused(f"`{role}.gpus` of `{file}` is no number of GPUs", None)
    return gpus


def _shares(groups: Any) -> bool:
    """Whether training and rollout stand in one group."""
    return isinstance(groups, list) and any(
        isinstance(group, list) and {"train", "rollout"} <= set(map(str, group)) for group in groups
    )
