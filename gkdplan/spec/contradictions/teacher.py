"""Of the teacher: which model it is, where its weights wait, and what it hands on."""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.spec.contradictions.finding import contradiction
from gkdplan.spec.source import Source


def a_teacher_is_one_model(source: Source) -> Iterator[Diagnostic]:
    if source.has("teacher") and not source.has("teacher.self"):
        if not source.has("teacher.model"):
            yield error(
                "GK004",
                "`teacher.model` is missing",
                "teacher.model",
                label="no `model` in this table",
                help=("add `model = ...` to `[teacher]`, or `self = ...` for the student itself",),
            )
        if source.has("teacher.decay"):
            yield contradiction(
                "teacher.decay",
                '`teacher.decay` is read only with `teacher.self = "ema"`',
                'write `self = "ema"` in place of `teacher.model`, or remove `decay`',
            )
        return
    for key in ("model", "revision", "dtype", "server", "samples"):
        if source.has(f"teacher.{key}"):
            yield contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` is of another model than the student, which `teacher.self` takes",
                f"remove `teacher.{key}` or `teacher.self`",
                f"`self` is written on line {source.locate('teacher.self').line}",
            )


def an_average_follows_the_student(source: Source) -> Iterator[Diagnostic]:
    if source.value("teacher.self") == "initial" and source.has("teacher.decay"):
        yield contradiction(
            "teacher.decay",
            "`teacher.decay` changes a teacher that stays what it is",
            'set `teacher.self = "ema"`, or remove `decay`',
        )
    if source.value("teacher.self") != "ema":
        return
    reasons = {"parallel": "moves weights away from the student's, whose average they are"}
    if source.value("teacher.stream") is True:
        reasons["stream"] = "is of models larger than the device, which holds the student anyway"
    for key, reason in reasons.items():
        if source.has(f"teacher.{key}"):
            yield contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` {reason}",
                f"remove `teacher.{key}`",
                'the teacher is the student\'s average: `self = "ema"`',
            )


def prefetch_needs_an_offload(source: Source) -> Iterator[Diagnostic]:
    for table in ("teacher", "optimizer"):
        offload = source.value(f"{table}.offload") or "none"
        if source.has(f"{table}.prefetch") and offload == "none":
            yield contradiction(
                f"{table}.prefetch",
                f'`{table}.prefetch` is read only with `{table}.offload = "cpu"` or "auto"',
                f"set `{table}.offload`, or remove `prefetch`",
                "nothing leaves the device",
            )


def a_stream_needs_weights_on_the_host(source: Source) -> Iterator[Diagnostic]:
    if source.value("teacher.stream") is not True:
        return
    if source.value("teacher.offload") != "cpu" and not source.has("teacher.server"):
        yield contradiction(
            "teacher.stream",
            '`teacher.stream` brings weights from where `teacher.offload = "cpu"` keeps them',
            'set `teacher.offload = "cpu"`, or remove `stream`',
        )
    if source.has("teacher.prefetch"):
        yield contradiction(
            "teacher.prefetch",
            "`teacher.prefetch` brings the whole teacher, and `teacher.stream` a layer at a time",
            "remove `prefetch` or `stream`",
        )


def top_k_is_a_payload(source: Source) -> Iterator[Diagnostic]:
    payload = source.value("distill.payload") or "auto"
    if source.has("distill.top_k") and payload != "top_k":
        yield contradiction(
            "distill.top_k",
            '`distill.top_k` is read only with `distill.payload = "top_k"`',
            'set `distill.payload = "top_k"`, or remove `top_k`',
            f"the payload is {payload}",
        )
    if payload == "top_k" and not source.has("distill.top_k"):
        yield contradiction(
            "distill.payload",
            '`distill.payload = "top_k"` does not say how many',
            "add `top_k = 64` to `[distill]`",
        )


CHECKS = (
    a_teacher_is_one_model,
    an_average_follows_the_student,
    prefetch_needs_an_offload,
    a_stream_needs_weights_on_the_host,
    top_k_is_a_payload,
)
