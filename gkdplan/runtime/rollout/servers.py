"""The servers that a plan samples from, and whether each can do what the plan asks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError
from gkdplan.runtime.server_keys import key_of
from gkdplan.runtime.student_config import DTYPE_NAMES

KEY = "generation.server_url"
ANSWER_LIMIT_S = 10.0
UNAUTHORIZED = 401
START_IT = "start it with `gkdplan serve PLAN`"
SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
"""Keys of config.json that all families have; `intermediate_size` joins them where layers are
dense."""
_NO_PROMPT = {"token_ids": "none"}
"""Refused as wrong where the route is open, and as forbidden where it is not: a server whose update
was broken off must not generate, as vllm dies of it."""
BAD_REQUESTS = (400, 422)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a server must be: a model of these `sizes`, for rows of `num_tokens`."""

    sizes: Mapping[str, int | bool | str]
    num_tokens: int


def wanted_of(run_plan: RunPlan) -> Wanted:
    student = run_plan.models.student
    shape = student.shape
    values = (
        shape.num_layers,
        shape.hidden_size,
        shape.num_attention_heads,
        shape.num_kv_heads,
        shape.vocab_size,
        shape.tied_embeddings,
    )
    sizes: dict[str, int | bool | str] = dict(zip(SIZES, values, strict=True))
    if shape.num_dense_layers:
        sizes["intermediate_size"] = shape.ffn_hidden_size
    num_tokens = run_plan.data.max_length + run_plan.sampling.max_completion_length
    return Wanted(sizes | {"dtype": DTYPE_NAMES[student.dtype]}, num_tokens)


def servers_of(run_plan: RunPlan) -> tuple[HttpServer, ...]:
    """Those of `generation.server_url`, each with its key where one is asked for."""
    sampling = run_plan.sampling
    return tuple(
        HttpServer(url, key_of(url) if sampling.server_key else None)
        for url in sampling.server_urls
    )


def not_ready(run_plan: RunPlan) -> Iterator[Diagnostic]:
    """A finding for each server that is not up (GK540), wants another key (GK541), or cannot do
    what the plan asks (GK542)."""
    wanted = wanted_of(run_plan)
    for server in servers_of(run_plan):
        try:
            found = unfit(server, wanted)
        except ServerGoneError as failure:
            yield _not_up(server, failure)
        else:
            if found is not None:
                yield found


def unfit(server: HttpServer, wanted: Wanted) -> Diagnostic | None:
    """Why the server is none for the plan; raises ServerGoneError where it does not answer."""
    try:
        models = server.get("/v1/models", ANSWER_LIMIT_S)["data"]
        length = int(models[0]["max_model_len"])
        rpc = {"method": "gkdplan_model_sizes"}
        (sizes, *_) = server.post("/collective_rpc", rpc, ANSWER_LIMIT_S)["results"]
        server.get("/weight_info", ANSWER_LIMIT_S)["weight_version"]
        _require_open(server)
    except ServerRefusedError as refusal:
        if refusal.status == UNAUTHORIZED:
            return _wants_another_key(server, refusal)
        return _cannot(server, f"cannot take weights, or prompts as tokens: {refusal}")
    except (LookupError, TypeError, ValueError) as failure:
        return _cannot(server, f"answers otherwise than vllm 0.32: {failure!r}")
    if length < wanted.num_tokens:
        return _cannot(
            server,
            f"takes {length:,} tokens; a prompt with its response has up to {wanted.num_tokens:,}",
        )
    return _of_another_shape(server, wanted, sizes)


def _require_open(server: HttpServer) -> None:
    """Raises ServerRefusedError where the server takes no prompts as tokens."""
    try:
        server.post("/inference/v1/generate", _NO_PROMPT, ANSWER_LIMIT_S)
    except ServerRefusedError as refusal:
        if refusal.status not in BAD_REQUESTS:
            raise


def _of_another_shape(
    server: HttpServer, wanted: Wanted, sizes: Mapping[str, Any]
) -> Diagnostic | None:
    others = [
        f"`{name}` is {sizes.get(name)}, and the student's {value}"
        for name, value in wanted.sizes.items()
        if sizes.get(name) != value
    ]
    return _cannot(server, "has a model of another shape", *others) if others else None


def _not_up(server: HttpServer, failure: ServerGoneError) -> Diagnostic:
    return error(
        "GK540",
        f"nothing answers at {server.url}",
        KEY,
        label="the student's samples are drawn there",
        notes=(str(failure),),
        help=(f"{START_IT}, and wait until it is up",),
    )


def _wants_another_key(server: HttpServer, refusal: ServerRefusedError) -> Diagnostic:
    given = "another key than the one given" if server.api_key else "a key"
    return error(
        "GK541",
        f"the server at {server.url} wants {given}",
        KEY,
        label="every route asks for it",
        notes=(str(refusal),),
        help=("set `VLLM_API_KEY` to the server's key, here and where it is started",),
    )


def _cannot(server: HttpServer, why: str, *notes: str) -> Diagnostic:
    return error(
        "GK542",
        f"the server at {server.url} cannot sample for this plan",
        KEY,
        label="the student's weights travel there before it samples",
        notes=(f"it {why}", *notes),
        help=(START_IT,),
    )
