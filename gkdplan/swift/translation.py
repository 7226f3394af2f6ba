"""A command of ms-swift -> the keys of a plan, each with the flag or the default that it was."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.swift import keys
from gkdplan.swift.command import Command, Flag, refused
from gkdplan.swift.given import Given
from gkdplan.swift.learning import learning
from gkdplan.swift.machines import machines
from gkdplan.swift.remarks import needs_none, why_none
from gkdplan.swift.said import Loss, Said
from gkdplan.swift.sampling import sampling
from gkdplan.swift.teacher import teacher

ANYWAY = "it asks for what a plan does without it"


@dataclass(frozen=True, slots=True)
class Translation:
    """`said` are the keys of a plan; `lost` the flags that no key is, and `idle` those that need
    none, each with the reason."""

    said: tuple[Said, ...]
    lost: tuple[Loss, ...]
    idle: tuple[Loss, ...]


def translate(command: Command, device: str) -> Translation:
    """Every flag of a command in one of three places.

    Raises UserError (GK010) where it is no distillation, or a value is not of its flag's kind.
    """
    given = Given(command)
    _is_a_distillation(given)
    found = [
        *machines(given, device),
        *_student(given),
        *teacher(given),
        *sampling(given),
        *learning(given),
    ]
    said = {each.key: each for each in _direct(given)}
    said |= {each.key: each for each in found if isinstance(each, Said)}
    lost = [each for each in found if isinstance(each, Loss)]
    left = list(given.left())
    lost += [Loss(flag, why_none(flag)) for flag in left if not needs_none(flag)]
    told = [each.remark for each in said.values()] + [str(loss.flag) for loss in lost]
    idle = [
        Loss(flag, needs_none(flag) or ANYWAY)
        for flag in command.flags
        if not any(flag.label in remark.split() for remark in told)
    ]
    return Translation(tuple(said.values()), tuple(lost), tuple(idle))


def _is_a_distillation(given: Given) -> None:
    kind = given.flag("rlhf_type")
    if kind is None or kind.values != ("gkd",):
        raise refused(
            f"`{kind}` is no distillation" if kind else "the command has no `--rlhf_type gkd`",
            kind.span if kind else None,
            help="only `megatron rlhf --rlhf_type gkd` can be imported",
        )


def _direct(given: Given) -> Iterator[Said]:
    for key, (name, kind) in keys.DIRECT.items():
        value = keys.read(given, name, kind)
        if value is not None:
            yield Said(key, value, given.flag(name))


def _student(given: Given) -> Iterator[Said | Loss]:
    model = given.text("model")
    if model is None:
        raise refused(
            "the command names no model",
            None,
            help="`--model` is needed: a plan reads models in Hugging Face's format",
        )
    yield Said("name", _name(given, model), "of the models")
    yield from _dtype(given.flag("torch_dtype"))


def _dtype(flag: Flag | None) -> Iterator[Said | Loss]:
    names = {"bfloat16": "bf16", "bf16": "bf16", "float32": "fp32", "fp32": "fp32"}
    if flag is None:
        return
    dtype = names.get(" ".join(flag.values))
    yield Said("student.dtype", dtype, flag) if dtype else Loss(flag, "weights are bf16 or fp32")


def _name(given: Given, student: str) -> str:
    taught_by = given.text("teacher_model") or given.text("model", "teacher")
    both = [path.rstrip("/").rpartition("/")[2] for path in (taught_by, student) if path]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-to-".join(both).lower()).strip("-._")
    return name or "imported"
