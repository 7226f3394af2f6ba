"""What a teacher's servers must be able to do, asked before a process starts."""

from collections.abc import Iterator

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.http_server import HttpServer, ServerGoneError, ServerRefusedError
from gkdplan.runtime.teacher.asking import (
    TOKENS_IN_AND_OUT,
    Asked,
    ask,
    refused,
    server_at,
)
from gkdplan.runtime.teacher.scores import LEAST, Question, likeliest_of_response

HELLO_TIMEOUT_S = 30.0
MODELS = "/v1/models"
BAD_REQUEST = 400
"""HTTP's status of a request that can never be answered."""


def check_servers(run_plan: RunPlan) -> None:
    """Raises UserError, with the findings of all servers of the teacher: GK550 where one does not
    answer, GK552 where it refuses, GK553 to GK556 where it cannot give what the plan asks for."""
    teacher = run_plan.models.teacher
    if teacher.server is None:
        return
    findings = [found for url in teacher.server.urls for found in _findings(run_plan, url)]
    if findings:
        raise UserError(*findings)


def _findings(run_plan: RunPlan, url: str) -> Iterator[Diagnostic]:
    server = server_at(url)
    try:
        max_model_len = _max_model_len(server.get(MODELS, HELLO_TIMEOUT_S))
        yield from _length(run_plan, url, max_model_len)
        yield from tuple(_vocabulary(run_plan, server)) or _top_k(run_plan, server)
        yield from _images(run_plan, server)
    except ServerGoneError as failure:
        yield _not_there(url, failure)
    except ServerRefusedError as refusal:
        yield from refused(url, refusal).diagnostics
    except UserError as failure:
        yield from failure.diagnostics


def _max_model_len(models: object) -> int | None:
    """Of the model that is served, None where the server does not say."""
    match models:
        case {"data": [{"max_model_len": int(length)}, *_]}:
            return length
        case _:
            return None


def _length(run_plan: RunPlan, url: str, max_model_len: int | None) -> Iterator[Diagnostic]:
    """The longest row, and the token that vllm adds to it."""
    prompt, response = run_plan.data.max_length, run_plan.sampling.max_completion_length
    wanted = prompt + response + LEAST
    if max_model_len is None:
        yield error(
            "GK555",
            f"the teacher's server at {url} does not say how long a row may be",
            "teacher.server",
            label="a server of vllm names its max_model_len",
            help=("serve the teacher with vllm",),
        )
    elif max_model_len < wanted:
        yield error(
            "GK555",
            f"the teacher's server at {url} takes rows of {max_model_len:,} tokens, and the plan's "
            f"have up to {wanted:,}",
            "teacher.server",
            notes=(
                f"`data.max_length` = {prompt:,} and `generation.max_completion_length` = "
                f"{response:,}, and one token that vllm adds to what it scores",
            ),
            help=(
                f"start it with `--max-model-len {wanted}`",
                f"or lower the two by {wanted - max_model_len:,} together",
            ),
        )


def _vocabulary(run_plan: RunPlan, server: HttpServer) -> Iterator[Diagnostic]:
    """The largest id is one of the teacher's, and an id behind its embedding is not, where the one
    teacher is the plan's. Of ids vllm takes those of its tokenizer or of its model, whichever are
    more (vllm/renderers/base.py, validate_token_ids)."""
    models = run_plan.models
    largest, behind = models.vocab_size - 1, models.teacher.shape.vocab_size + 1
    is_the_plans = models.teacher.server is not None and models.teacher.server.column is None
    if not _takes(server, largest):
        yield _another_vocabulary(server.url, f"does not take the id {largest:,}", largest)
    elif is_the_plans and _takes(server, behind):
        yield _another_vocabulary(server.url, f"takes the id {behind:,}", largest)


def _takes(server: HttpServer, token: int) -> bool:
    try:
        ask(server, Asked({"prompt": [token], "max_tokens": LEAST}))
    except ServerRefusedError as refusal:
        if refusal.status != BAD_REQUEST:
            raise
        return False
    return True


def _top_k(run_plan: RunPlan, server: HttpServer) -> Iterator[Diagnostic]:
    """As many ids as the plan keeps, of a real question."""
    top_k, vocab_size = run_plan.objective.top_k, run_plan.models.vocab_size
    assert top_k is not None, "a server gives its likeliest ids"
    question = Question([vocab_size - 1], [vocab_size - 1])
    try:
        answer = ask(server, question.asked(top_k))
    except ServerRefusedError as refusal:
        if refusal.status != BAD_REQUEST:
            raise
        yield error(
            "GK554",
            f"the teacher's server at {server.url} does not give {top_k:,} log-probabilities a "
            "token",
            "teacher.server.top_k",
            notes=(f"it says: {refusal.words}",),
            help=(f"start it with `--max-logprobs {top_k}`, or lower `teacher.server.top_k`",),
        )
        return
    likeliest_of_response(
        answer, question, url=server.url, num_asked=top_k, top_k=top_k, vocab_size=vocab_size
    )


def _images(run_plan: RunPlan, server: HttpServer) -> Iterator[Diagnostic]:
    """A teacher that sees has a route that takes images."""
    if run_plan.models.teacher.shape.vision is None:
        return
    tokens = [run_plan.models.vocab_size - 1]
    body = {"token_ids": tokens, "sampling_params": {"max_tokens": LEAST}}
    try:
        ask(server, Asked(body, TOKENS_IN_AND_OUT))
    except ServerRefusedError as refusal:
        yield error(
            "GK552",
            f"the teacher's server at {server.url} refuses prompts with images: {refusal.status}",
            "teacher.server",
            notes=(f"its {TOKENS_IN_AND_OUT} says: {refusal.words}",),
            help=("start it with `gkdplan serve PLAN --role teacher`",),
        )


def _not_there(url: str, failure: ServerGoneError) -> Diagnostic:
    return error(
        "GK550",
        f"the teacher's server at {url} does not answer",
        "teacher.server",
        notes=(str(failure),),
        help=("start it, or mend its address",),
    )


def _another_vocabulary(url: str, does: str, largest: int) -> Diagnostic:
    return error(
        "GK553",
        f"the teacher's server at {url} {does}: it serves a model of another vocabulary",
        "teacher.server",
        notes=(f"the largest id of the plan's vocabulary is {largest:,}",),
        help=("serve the model that `teacher.model` names",),
    )
