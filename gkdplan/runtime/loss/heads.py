"""Both models' logits from their hidden states, chunk by chunk, never all at one time.

Legend: N tokens, C tokens of one chunk, H and G hidden size of student and teacher, V entries.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runtime.loss.distribution import working_dtype
from gkdplan.runtime.loss.products import logits_
from gkdplan.runtime.loss.softcap import bound_
from gkdplan.runtime.loss.top_k import TopK
from gkdplan.runtime.loss.vocabulary import VocabularyShard


@dataclass(frozen=True, slots=True)
class TeacherStates:
    """The teacher's final hidden states [N, G] and this rank's rows of its head [V, G], whose
    products are bounded by `softcap`."""

    hidden_NG: Tensor
    head_VG: Tensor
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Heads:
    """Hidden states [N, H] and head [V, H] of this rank's true vocabulary, and the teacher's."""

    student_hidden_NH: Tensor
    student_head_VH: Tensor
    teacher: TeacherStates | TopK
    chunk_tokens: int
    student_softcap: float | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        if isinstance(self.teacher, TopK):
            return working_dtype(self.student_hidden_NH)
        return working_dtype(self.student_hidden_NH, self.teacher.hidden_NG)

    def chunks(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | TopK]]:
        """For each chunk of the token indices: they, the student's logits [C, V], and the teacher's
        or what is known of them.

        The logits live in buffers that the next chunk overwrites.
        """
        num_models = 1 if isinstance(self.teacher, TopK) else 2
        size = (num_models, min(self.chunk_tokens, len(tokens)), len(self.student_head_VH))
        student_CV, *others = self.student_hidden_NH.new_empty(size, dtype=self.dtype)
        for start in range(0, len(tokens), self.chunk_tokens):
            chunk = tokens[start : start + self.chunk_tokens]
            part_CV = student_CV[: len(chunk)]
            logits_(part_CV, self.student_hidden_NH[chunk], self.student_head_VH)
            bound_(part_CV, self.student_softcap)
            yield chunk, part_CV, self._teacher_of(chunk, *others)

    def _teacher_of(self, chunk: Tensor, *buffers: Tensor) -> Tensor | TopK:
        if isinstance(self.teacher, TopK):
            return self.teacher.of(chunk)
        buffer_CV = buffers[0][: len(chunk)]
        logits_(buffer_CV, self.teacher.hidden_NG[chunk], self.teacher.head_VG)
        return bound_(buffer_CV, self.teacher.softcap)


def cut_heads(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher: TeacherStates | TopK,
    chunk_tokens: int,
    vocab_size: int | None,
    group: dist.ProcessGroup | None,
    student_softcap: float | None = None,
) -> tuple[Heads, VocabularyShard]:
    """Both heads cut to the true vocabulary, and which part of it this rank holds.

    Raises ValueError where shapes do not fit together or `chunk_tokens` is below 1.
    """
    if student_hidden.shape[1] != student_head.shape[1]:
        shapes = tuple(student_hidden.shape), tuple(student_head.shape)
        raise ValueError(f"hidden [N, H] and head [V, H] of the student wanted, not {shapes}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens {chunk_tokens} is not above 0")
    shard = VocabularyShard(len(student_head), vocab_size, group)
    if isinstance(teacher, TopK):
        teacher.check(len(student_hidden))
    else:
        teacher = _cut(teacher, student_hidden, student_head, shard.num_entries)
    heads = Heads(
        student_hidden.detach(),
        student_head.detach()[: shard.num_entries],
        teacher,
        chunk_tokens,
        student_softcap,
    )
    return heads, shard


def _cut(
    teacher: TeacherStates, student_hidden: Tensor, student_head: Tensor, num_entries: int
) -> TeacherStates:
    hidden, head = teacher.hidden_NG, teacher.head_VG
    fits = (
        len(head) == len(student_head)
        and len(hidden) == len(student_hidden)
        and hidden.shape[1] == head.shape[1]
    )
    if not fits:
        tensors = (student_hidden, student_head, hidden, head)
        shapes = [tuple(t.shape) for t in tensors]
        raise ValueError(f"hidden [N, H], head [V, H] of student and teacher wanted, not {shapes}")
    return TeacherStates(hidden.detach(), head.detach()[:num_entries], teacher.softcap)
