"""Questions to a teacher's servers: several at one time, and again where no answer came."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.models import TeacherServer
from gkdplan.runtime.http_server import (
    API_KEY,
    HttpServer,
    ServerGoneError,
    ServerRefusedError,
)
from gkdplan.runtime.rollout.images import features
from gkdplan.runtime.server_keys import key_of
from gkdplan.runtime.vision.pixels import PromptImage

COMPLETIONS, TOKENS_IN_AND_OUT = "/v1/completions", "/inference/v1/generate"
"""Routes of vllm's server; the second takes images as pixels, and is there where the server was
started with --enable-scale-out."""
CONCURRENT_REQUESTS = 16
"""Of one rank that asks."""
ANSWER_TIMEOUT_S = 300.0
"""Of one request; a server that takes longer counts as gone."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
"""Between two attempts, twice as long each time."""
BUSY, BROKEN = 429, 500
"""HTTP's status of a server that may answer later: this one, and from this one on."""


One = TypeVar("One")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request posts, and on which route."""

    body: dict[str, Any]
    path: str = COMPLETIONS


def asked_with_images(
    tokens: list[int], sampling: Mapping[str, Any], images: Sequence[PromptImage]
) -> Asked:
    """Of a prompt that shows images: `sampling` are vllm's SamplingParams by name."""
    body = {"token_ids": tokens, "sampling_params": sampling, "features": features(images)}
    return Asked(body, TOKENS_IN_AND_OUT)


def in_parallel(answer: Callable[[One], Answer], questions: Sequence[One]) -> list[Answer]:
    """The answers, in order; where one raises, the others are not waited for, nor by the end of the
    process."""
    with ThreadPool(CONCURRENT_REQUESTS) as pool:
        return list(pool.imap(answer, questions))


def ask_patiently(url: str, asked: Asked, patience_s: float) -> Any:
    """The answer to one request; what failed is asked again for `patience_s` seconds after it
    first failed.

    Raises UserError: GK551 where the server has not come back, GK552 where it refuses.
    """
    server, wait_s, deadline_s = server_at(url), FIRST_WAIT_S, None
    while True:
        try:
            return ask(server, asked)
        except (ServerGoneError, ServerRefusedError) as failure:
            if isinstance(failure, ServerRefusedError) and not _may_answer_later(failure):
                raise refused(url, failure) from failure
            now_s = time.monotonic()
            deadline_s = now_s + patience_s if deadline_s is None else deadline_s
            if now_s + wait_s > deadline_s:
                raise _gone(url, failure, patience_s) from failure
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def ask(server: HttpServer, asked: Asked) -> Any:
    """One answer, asked for once; raises as HttpServer.post does."""
    return server.post(asked.path, asked.body, ANSWER_TIMEOUT_S)


def server_at(url: str) -> HttpServer:
    """With its key, of the environment or of `gkdplan serve`."""
    return HttpServer(url, key_of(url))


def url_of(server: TeacherServer, teacher: str | None) -> str:
    """The address of a row's teacher."""
    of_values = {address.value: address.url for address in server.addresses}
    return of_values[teacher]


def refused(url: str, refusal: ServerRefusedError) -> UserError:
    """GK552, in the server's own words."""
    wants_key = refusal.status in (401, 403)
    return UserError(
        error(
            "GK552",
            f"the teacher's server at {url} refuses to answer: {refusal.status}",
            "teacher.server",
            notes=(f"it says: {refusal.words}",),
            help=(
                f"put its key into the environment variable {API_KEY}"
                if wants_key
                else "start it with the model and the limits that the plan needs",
            ),
        )
    )


def _may_answer_later(refusal: ServerRefusedError) -> bool:
    return refusal.status == BUSY or refusal.status >= BROKEN


def _gone(url: str, failure: Exception, patience_s: float) -> UserError:
    return UserError(
        error(
            "GK551",
            f"the teacher's server at {url} has not answered for {patience_s:g} seconds",
            "teacher.server",
            label="the run stops, and can be resumed",
            notes=(str(failure),),
            help=(
                "start it again and run the same command: it goes on after the last checkpoint",
                "raise `teacher.server.patience_s` where it may be away for longer",
            ),
        )
    )
