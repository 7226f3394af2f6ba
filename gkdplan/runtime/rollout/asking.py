"""One prompt asked of a server: tokens in, tokens out, and what an answer must be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError
from gkdplan.runtime.rollout.answers import checked, logits_are_not_finite
from gkdplan.runtime.rollout.engine import Completion, Request
from gkdplan.runtime.rollout.images import features

KEY = "generation.server_url"
ANSWER_LIMIT_S = 600.0
FIRST_SERVER_ERROR = 500
NOT_A_LOGPROB = -9999.0
"""What vLLM's JSON has in place of NaN and minus infinity."""
FORBIDDEN = -1e30
"""Added to the logits of ids that only pad the vocabulary."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids that may be drawn, those below `size`, of the `num_rows` of the output head; `stop_ids`
    end a response."""

    size: int
    num_rows: int
    stop_ids: frozenset[int]


def label_of(run: str, version: int) -> str:
    """What a server calls the weights that `run` has sent."""
    return f"{run}:{version}"


def ask(
    server: HttpServer,
    request: Request,
    sampling: Sampling,
    vocabulary: Vocabulary,
    run: str,
    version: int,
) -> Completion:
    """The server's response, drawn as docs/sampling.md says but for its random numbers.

    Raises ServerGoneError where it does not answer, or gives up; UserError where it refuses the
    prompt (GK542) or answers with no completion (GK544), from logits that are not finite (GK570),
    other weights than `version` of `run` (GK571), or with ids outside the vocabulary (GK572).
    """
    settings = parameters(request, sampling, vocabulary)
    body = {"token_ids": list(request.prompt), "sampling_params": settings}
    if request.images:
        body["features"] = features(request.images)
    try:
        choice = server.post("/inference/v1/generate", body, ANSWER_LIMIT_S)["choices"][0]
        tokens = tuple(map(int, choice["token_ids"]))
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        drawn_by = _version_of(choice["weight_versions"], run)
        reason = choice["finish_reason"]
    except ServerRefusedError as refusal:
        if refusal.status >= FIRST_SERVER_ERROR:
            raise ServerGoneError(str(refusal)) from refusal
        raise UserError(_refused(server, refusal)) from refusal
    except (LookupError, TypeError, ValueError) as failure:
        raise UserError(_no_completion(server, repr(failure))) from failure
    if reason not in ("stop", "length"):
        raise ServerGoneError(f"{server.url} gave a response up: {reason}")
    if not 0 < len(tokens) <= sampling.max_completion_length:
        raise UserError(_no_completion(server, f"it has {len(tokens)} tokens"))
    name = f"the server at {server.url}"
    if not all(map(_is_number, logprobs)):
        raise logits_are_not_finite(name)
    (completion,) = checked([Completion(tokens, drawn_by)], vocabulary.size, version, name)
    return completion


def parameters(request: Request, sampling: Sampling, vocabulary: Vocabulary) -> dict[str, Any]:
    """All that shape the distribution, so that no default of the server's does."""
    padding = range(vocabulary.size, vocabulary.num_rows)
    return {
        "n": 1,
        "seed": request.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "max_tokens": sampling.max_completion_length,
        "min_tokens": 0,
        "stop_token_ids": sorted(vocabulary.stop_ids),
        "ignore_eos": True,
        "logit_bias": dict.fromkeys(padding, FORBIDDEN) or None,
        "logprobs": 0,
        "detokenize": False,
    }


def _is_number(logprob: Any) -> bool:
    return type(logprob) is float and isfinite(logprob) and logprob > NOT_A_LOGPROB


def _version_of(spans: Sequence[Mapping[str, Any]], run: str) -> int:
    """The one version of `run`'s weights that drew all tokens, else -1."""
    labels = {span["version"] for span in spans}
    label = labels.pop() if len(labels) == 1 else ""
    sent_by, _, version = label.rpartition(":")
    return int(version) if sent_by == run else -1


def _refused(server: HttpServer, refusal: ServerRefusedError) -> Diagnostic:
    return error(
        "GK542",
        f"the server at {server.url} refused a prompt",
        KEY,
        notes=(str(refusal),),
        help=("start it with `gkdplan serve PLAN`, which gives it the plan's limits",),
    )


def _no_completion(server: HttpServer, fault: str) -> Diagnostic:
    return error(
        "GK544",
        f"the server at {server.url} answered with what is no completion",
        KEY,
        label="nothing is learnt from it",
        notes=(fault,),
        help=("start it with `gkdplan serve PLAN`, of vllm 0.32",),
    )
