"""What vllm answers of a prompt's tokens, read strictly.

A prompt of tokens alone goes to the route of completions, one that shows images, with their pixels,
to that of tokens in and out. With `prompt_logprobs` = K an answer of either has, for each token of
the prompt but the first, the K likeliest ids at its place and the token itself: K entries, or K + 1
where the token is none of them (vllm/logprobs.py, append_logprobs_for_next_position).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runtime.teacher.asking import Asked, asked_with_images
from gkdplan.runtime.vision.images import Shown
from gkdplan.runtime.vision.pixels import PromptImage

ROUNDING = 1e-3
"""By how much float32 log-probabilities may add up to more than 1."""
LEAST = 1
"""vllm generates at least one token, which nobody reads."""

Likeliest = list[tuple[int, float]]
"""Ids with their natural log-probabilities, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its response as tokens, the value that names its teacher, and the pictures whose
    tokens the prompt holds, in order."""

    prompt: Sequence[int]
    response: Sequence[int]
    teacher: str | None = None
    shown: tuple[Shown, ...] = ()

    def asked(self, num_ids: int, images: Sequence[PromptImage] = ()) -> Asked:
        """What scores the response, `num_ids` likeliest ids a token; `images` are all it shows."""
        tokens = [*self.prompt, *self.response]
        scoring = {"prompt_logprobs": num_ids, "max_tokens": LEAST, "temperature": 0.0}
        if images:
            return asked_with_images(tokens, {**scoring, "detokenize": False}, images)
        return Asked({"prompt": tokens, **scoring, "return_tokens_as_token_ids": True})


def likeliest_of_response(
    answer: Any, question: Question, *, url: str, num_asked: int, top_k: int, vocab_size: int
) -> list[Likeliest] | None:
    """The `top_k` likeliest ids below `vocab_size` of each response token.

    None where ids from `vocab_size` on, rows of the teacher's embedding that no token has, stand
    before one of them, so that more than `num_asked` have to be asked for. Raises UserError (GK556)
    where the answer is not of this question, or its numbers are no log-probabilities.
    """
    try:
        positions = (answer if question.shown else answer["choices"][0])["prompt_logprobs"]
        found = [
            _likeliest(position, token, num_asked)
            for position, token in zip(
                positions[len(question.prompt) :], question.response, strict=True
            )
        ]
    except (KeyError, IndexError, TypeError, ValueError) as failure:
        raise UserError(senseless(url, failure)) from failure
    known = [[(i, value) for i, value in ids if i < vocab_size][:top_k] for ids in found]
    return known if all(len(ids) == top_k for ids in known) else None


def _likeliest(entries: Mapping[str, Any], token: int, num_asked: int) -> Likeliest:
    """Raises ValueError where these are not the likeliest ids of one place."""
    values = {int(name): float(entry["logprob"]) for name, entry in entries.items()}
    if token not in values:
        raise ValueError(f"no log-probability of the token {token}")
    if len(values) == num_asked + 1:
        del values[token]
    if len(values) != num_asked:
        raise ValueError(f"{len(values)} ids of a token, {num_asked} were asked for")
    mass = math.fsum(map(math.exp, values.values()))
    if not mass <= 1 + ROUNDING:
        raise ValueError(f"probabilities of a token that add up to {mass}")
    return sorted(values.items(), key=lambda entry: -entry[1])


def senseless(url: str, failure: Exception) -> Diagnostic:
    """GK556, for an answer that is not what was asked for."""
    return error(
        "GK556",
        f"the teacher's server at {url} answers with what is no distribution",
        "teacher.server",
        notes=(f"{type(failure).__name__}: {failure}",),
        help=(
            "look into the server's log: not-a-number of a model too large for its dtype is the "
            "usual cause",
        ),
    )


def other_vocabulary(url: str, vocab_size: int) -> Diagnostic:
    """GK553, for ids that are no tokens."""
    return error(
        "GK553",
        f"the teacher's server at {url} gives ids beyond the {vocab_size:,} of the vocabulary",
        "teacher.server",
        help=("serve a teacher that has the student's tokenizer",),
    )
