"""Rules of what is behind a server: a teacher, and what samples."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.rule import Finding, rule
from gkdplan.planner.drafting import loss_temperature, server_urls
from gkdplan.spec.plan import Plan
from gkdplan.spec.toml_words import format_path


@rule("GK418")
def a_servers_log_probs_are_at_temperature_one(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """vllm takes the log-probabilities of a prompt from the logits as they are
    (vllm/v1/worker/gpu_model_runner.py, _get_prompt_logprobs_dict)."""
    temperature = loss_temperature(plan)
    if plan.teacher.server is not None and temperature != 1.0:
        is_written = plan.distill.loss_temperature is not None
        yield Finding(
            f"the loss has temperature {temperature:g}, and a teacher's server answers at 1",
            "distill.loss_temperature" if is_written else "distill.temperature",
            label="of the likeliest ids alone other temperatures do not follow",
            help=("set `distill.loss_temperature` to 1",),
        )


@rule("GK419")
def an_address_is_whole(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """http or https, and a host."""
    for path, url in _addresses(plan):
        if not _is_whole(url):
            host = url.rpartition("://")[2].strip("/") or "127.0.0.1:8000"
            yield Finding(
                f'`{path}` "{url}" is not a whole address',
                path,
                label="a scheme and a host are wanted",
                help=(f'write it whole, such as "http://{host}"',),
            )


@rule("GK427")
def a_server_is_named_once(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Each has its own line of weights, and its share of the prompts."""
    urls = [url.rstrip("/") for url in server_urls(plan)]
    for index, url in enumerate(urls):
        if url in urls[:index]:
            yield Finding(
                f'`generation.server_url` names "{url}" twice',
                f"generation.server_url[{index}]",
                label="one server would be sent the weights twice at one time",
                help=("remove it, or name another server",),
            )


RULES = (
    a_servers_log_probs_are_at_temperature_one,
    an_address_is_whole,
    a_server_is_named_once,
)


def _addresses(plan: Plan) -> Iterator[tuple[str, str]]:
    """Where each is written, and it."""
    is_listed = not isinstance(plan.generation.server_url, str)
    for index, url in enumerate(server_urls(plan)):
        yield f"generation.server_url[{index}]" if is_listed else "generation.server_url", url
    server = plan.teacher.server
    if server is None:
        return
    if server.url is not None:
        yield "teacher.server.url", server.url
    for value, url in (server.urls or {}).items():
        yield format_path(("teacher", "server", "urls", value)), url


def _is_whole(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
