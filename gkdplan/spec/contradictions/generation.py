"""Of what samples."""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic
from gkdplan.spec.contradictions.finding import contradiction
from gkdplan.spec.learning import Generation
from gkdplan.spec.source import Source


def server_mode_needs_a_url(source: Source) -> Iterator[Diagnostic]:
    is_server = source.value("generation.mode") == "server"
    if is_server and not source.has("generation.server_url"):
        yield contradiction(
            "generation.mode",
            '`generation.mode = "server"` does not say where the server is',
            'add `server_url = "http://HOST:PORT"` to `[generation]`',
        )
    if not is_server and source.has("generation.server_url"):
        yield contradiction(
            "generation.server_url",
            '`generation.server_url` is read only with `generation.mode = "server"`',
            'set `generation.mode = "server"`, or remove `server_url`',
        )


def a_server_is_of_vllm(source: Source) -> Iterator[Diagnostic]:
    engine = source.value("generation.engine") or Generation.model_fields["engine"].default
    if source.value("generation.mode") == "server" and engine != "vllm":
        yield contradiction(
            "generation.mode",
            '`generation.mode = "server"` is read only with `generation.engine = "vllm"`',
            'set `generation.engine = "vllm"`, or remove `mode`',
            f"the engine is {engine}",
        )


def only_a_server_draws_ahead(source: Source) -> Iterator[Diagnostic]:
    if source.value("generation.staleness") == 1 and source.value("generation.mode") != "server":
        yield contradiction(
            "generation.staleness",
            '`generation.staleness = 1` is read only with `generation.mode = "server"`',
            'set `generation.mode = "server"`, or remove `staleness`',
            "ranks that train cannot sample meanwhile",
        )


CHECKS = (
    server_mode_needs_a_url,
    a_server_is_of_vllm,
    only_a_server_draws_ahead,
)
