"""A teacher's own samples, drawn by its servers: docs/sampling.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import TeacherServer
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.rollout.asking import Vocabulary, parameters
from gkdplan.runtime.rollout.engine import Completion, Request
from gkdplan.runtime.teacher.asking import (
    Asked,
    ask_patiently,
    asked_with_images,
    in_parallel,
    url_of,
)
from gkdplan.runtime.teacher.scores import other_vocabulary, senseless

NEVER = -100.0
"""vllm's least bias of a logit: e**-100 of an id's probability is left."""


@dataclass(frozen=True, slots=True)
class ServedSampler:
    """A teacher's servers as an engine that samples, as one of `num_ranks` ranks asks them; the
    weights are never updated."""

    plan: RunPlan
    server: TeacherServer
    stop_ids: frozenset[int]
    rank: int
    num_ranks: int

    def share(self, num_rows: int) -> range:
        """Places, in a batch that all ranks know, of the rows that this rank asks for: neighbours,
        about as many as every other rank's."""
        start, end = (num_rows * rank // self.num_ranks for rank in (self.rank, self.rank + 1))
        return range(start, end)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """One completion a request, in order.

        Raises UserError: GK551 and GK552 where a server does not answer, GK553 for an id outside
        the vocabulary, GK556 for no ids, GK557 where a response ended with no stop token.
        """
        return in_parallel(lambda request: self._sample(request, sampling), requests)

    def _sample(self, request: Request, sampling: Sampling) -> Completion:
        url = url_of(self.server, request.teacher)
        answer = ask_patiently(url, self._asked(request, sampling), self.server.patience_s)
        try:
            tokens = tuple(int(token) for token in answer["choices"][0]["token_ids"])
        except (KeyError, IndexError, TypeError, ValueError) as failure:
            raise UserError(senseless(url, failure)) from failure
        vocab_size = self.plan.models.vocab_size
        if not all(0 <= token < vocab_size for token in tokens):
            raise UserError(other_vocabulary(url, vocab_size))
        is_ended = bool(tokens) and tokens[-1] in self.stop_ids
        if not is_ended and len(tokens) != sampling.max_completion_length:
            raise UserError(_ended_early(url, len(tokens)))
        return Completion(tokens, weights_version=0)

    def _asked(self, request: Request, sampling: Sampling) -> Asked:
        if not request.images:
            return Asked(self._body(request, sampling))
        models, unused = self.plan.models, self._unused_ids()
        vocabulary = Vocabulary(models.vocab_size, models.vocab_size + len(unused), self.stop_ids)
        settings = parameters(request, sampling, vocabulary)
        return asked_with_images(list(request.prompt), settings, request.images)

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """Every setting of a sampler is named: what a request leaves out, a server takes from the
        model's generation_config.json."""
        return {
            "prompt": list(request.prompt),
            "seed": request.seed,
            "max_tokens": sampling.max_completion_length,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logit_bias": {str(token): NEVER for token in self._unused_ids()},
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,
            "return_token_ids": True,
        }

    def _unused_ids(self) -> range:
        """Rows of the teacher's embedding that no token has; of several teachers each may have
        other numbers of them."""
        models = self.plan.models
        if self.server.column is not None:
            return range(0)
        return range(models.vocab_size, models.teacher.shape.vocab_size)


def _ended_early(url: str, num_tokens: int) -> Diagnostic:
    return error(
        "GK557",
        f"the teacher's server at {url} ended a response after {num_tokens:,} tokens, with none of "
        "the plan's stop tokens",
        "teacher.server",
        label="it has stop tokens of its own",
        help=("start it with `--generation-config vllm`, which leaves the model's own out",),
    )
