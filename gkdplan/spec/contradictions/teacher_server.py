"""Of a teacher behind a server."""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions.finding import contradiction
from gkdplan.spec.models import Server
from gkdplan.spec.source import Source


def a_server_teacher_holds_no_weights_here(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    for key in ("parallel", "offload", "prefetch", "stream"):
        if source.has(f"teacher.{key}"):
            yield contradiction(
                f"teacher.{key}",
                f"`teacher.{key}` places weights that `teacher.server` keeps elsewhere",
                f"remove `teacher.{key}` or `[teacher.server]`",
            )


def a_server_teacher_has_an_address(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    has_one, has_several = source.has("teacher.server.url"), source.has("teacher.server.urls")
    if has_one and has_several:
        yield contradiction(
            "teacher.server.urls",
            "`teacher.server.url` and `teacher.server.urls` both say where the teacher is",
            "keep `url` for one teacher, or `urls` with `column` for several",
            f"`url` is written on line {source.locate('teacher.server.url').line}",
        )
    if not has_one and not has_several:
        yield contradiction(
            "teacher.server",
            "`teacher.server` does not say where the teacher is",
            'add `url = "http://HOST:PORT"`',
        )


def several_teachers_need_a_column(source: Source) -> Iterator[Diagnostic]:
    has_several, has_column = (source.has(f"teacher.server.{key}") for key in ("urls", "column"))
    if has_several and not has_column:
        yield contradiction(
            "teacher.server.urls",
            "`teacher.server.urls` does not say which row has which teacher",
            'add `column = "..."`, the column of the data that holds one of its keys',
        )
    if has_column and not has_several:
        yield contradiction(
            "teacher.server.column",
            "`teacher.server.column` is read only with `teacher.server.urls`",
            'write `urls = { VALUE = "http://HOST:PORT" }`, or remove `column`',
        )


def a_server_teacher_gives_its_likeliest_ids(source: Source) -> Iterator[Diagnostic]:
    if not source.has("teacher.server"):
        return
    payload = source.value("distill.payload")
    if payload in ("hidden", "logits"):
        yield contradiction(
            "distill.payload",
            f'`distill.payload = "{payload}"` is not what a `teacher.server` can give',
            "remove `distill.payload`: a server gives the likeliest ids of each token",
        )
    asked = source.value("teacher.server.top_k")
    asked = Server.model_fields["top_k"].default if asked is None else asked
    if source.has("distill.top_k") and source.value("distill.top_k") != asked:
        yield contradiction(
            "distill.top_k",
            "`distill.top_k` and `teacher.server.top_k` ask for different numbers of ids",
            "remove `distill.payload` and `distill.top_k`: `teacher.server.top_k` decides",
            f"the server is asked for {asked}",
        )


CHECKS = (
    a_server_teacher_holds_no_weights_here,
    a_server_teacher_has_an_address,
    several_teachers_need_a_column,
    a_server_teacher_gives_its_likeliest_ids,
)
