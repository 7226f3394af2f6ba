"""A teacher behind servers: its payload, asked for in place of a forward.

Legend: N response tokens of a micro-batch on a rank, T those of all rows of a data rank, K ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.distributed as dist

from gkdplan.diagnostics import UserError
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import TeacherServer
from gkdplan.runtime.data.batch import Row
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.loss import TopK, with_tail
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.teacher.asking import ask_patiently, in_parallel, url_of
from gkdplan.runtime.teacher.payload import TeacherPayload
from gkdplan.runtime.teacher.scores import (
    Likeliest,
    Question,
    likeliest_of_response,
    other_vocabulary,
)
from gkdplan.runtime.vision.images import Eyes
from gkdplan.runtime.vision.pixels import PromptImage
from gkdplan.runtime.vision.prompted import images_of_prompt


@dataclass(frozen=True, slots=True)
class ServedTeacher:
    """A teacher's servers, as one rank of the student's mesh asks them; one that sees is sent what
    `eyes` make of pictures."""

    plan: RunPlan
    server: TeacherServer
    mesh: Mesh
    eyes: Eyes | None = None

    def payloads(self, batches: Sequence[Sequence[Question]]) -> list[TeacherPayload | None]:
        """For each micro-batch of this data rank the teacher's likeliest ids of the response tokens
        in this rank's share, [N, K]; None where the rank has no loss.

        Collective over the ranks of the last stage that hold the same rows, of which the first asks
        for all of them. Raises UserError there: GK551 to GK553 and GK556, and GK485 where a picture
        cannot be shown.
        """
        if self.mesh.pipeline_rank != self.mesh.pipeline_size - 1:
            return [None] * len(batches)
        known = self._known([question for batch in batches for question in batch])
        return [TeacherPayload(known.of(tokens)) for tokens in self._tokens_here(batches)]

    def _tokens_here(self, batches: Sequence[Sequence[Question]]) -> Iterator[torch.Tensor | slice]:
        """Of each micro-batch the places in [T, K] of the tokens in this rank's share."""
        rows = [
            [Row(question.prompt, question.response) for question in batch] for batch in batches
        ]
        deal = Deal(replace(self.plan.layout.student, data=1), rows)
        start = 0
        for k, batch in enumerate(rows):
            end = start + sum(len(row.response) for row in batch)
            if self.mesh.context_size == 1:
                yield slice(start, end)
            else:
                here = deal.response_tokens(k)[self.mesh.context_rank]
                yield start + torch.tensor(here, dtype=torch.int64, device=self.mesh.device)
            start = end

    def _known(self, questions: Sequence[Question]) -> TopK:
        """The likeliest ids of all response tokens, in order, [T, K], on every rank that asks for
        them."""
        num_tokens = sum(len(question.response) for question in questions)
        size = (num_tokens, self._top_k)
        ids_TK = torch.empty(size, dtype=torch.int32)
        log_probs_TK = torch.empty(size, dtype=torch.float32)
        group = self.mesh.groups.tp_cp
        if group.rank() == 0 and num_tokens:
            ids_TK, log_probs_TK = self.answers(questions)
        ids_TK, log_probs_TK = ids_TK.to(self.mesh.device), log_probs_TK.to(self.mesh.device)
        if group.size() > 1:
            for tensor in (ids_TK, log_probs_TK):
                dist.broadcast(tensor, group=group, group_src=0)
        return self._with_tail(ids_TK, log_probs_TK)

    def answers(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and log-probabilities of all response tokens, in order, [T, K], as the servers give
        them."""
        asked = [question for question in questions if question.response]
        tokens = [*chain.from_iterable(in_parallel(self._likeliest, asked))]
        ids_TK = torch.tensor([[i for i, _ in ids] for ids in tokens], dtype=torch.int32)
        return ids_TK, torch.tensor([[value for _, value in ids] for ids in tokens])

    def _with_tail(self, ids_TK: torch.Tensor, log_probs_TK: torch.Tensor) -> TopK:
        """The other ids have what the likeliest leave, nothing where there are no others."""
        tail_T = with_tail(ids_TK, log_probs_TK).tail_N
        assert tail_T is not None
        if self._top_k == self.plan.models.vocab_size:
            tail_T = torch.full_like(tail_T, -torch.inf)
        return TopK(ids_TK, log_probs_TK, tail_T.float())

    def _likeliest(self, question: Question) -> list[Likeliest]:
        """Of each response token, from the server of the row's teacher.

        Rows of the teacher's embedding that no token has may be likelier than a token: then as many
        more are asked for.
        """
        models = self.plan.models
        num_unused = models.teacher.shape.vocab_size - models.vocab_size
        url, images = url_of(self.server, question.teacher), self._images(question)
        for num_asked in (self._top_k, self._top_k + num_unused):
            asked = question.asked(num_asked, images)
            answer = ask_patiently(url, asked, self.server.patience_s)
            found = likeliest_of_response(
                answer,
                question,
                url=url,
                num_asked=num_asked,
                top_k=self._top_k,
                vocab_size=models.vocab_size,
            )
            if found is not None:
                return found
        raise UserError(other_vocabulary(url, models.vocab_size))

    def _images(self, question: Question) -> list[PromptImage]:
        if not question.shown:
            return []
        assert self.eyes is not None, "text models have no rows with images"
        dtype = TORCH_DTYPES[self.plan.models.teacher.dtype]
        return [*images_of_prompt(question.prompt, question.shown, self.eyes, dtype)]

    @property
    def _top_k(self) -> int:
        assert self.plan.objective.top_k is not None, "a server gives its likeliest ids"
        return self.plan.objective.top_k


def question_of(example: Example, response: Sequence[int]) -> Question:
    """A response to an example's prompt, for the example's teacher."""
    return Question(example.prompt, response, example.teacher, example.shown)
