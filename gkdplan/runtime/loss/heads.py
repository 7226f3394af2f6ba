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
from gkdplan.runtime.loss.vocabulary import VocabularyShard


@dataclass(frozen=True, slots=True)
class Heads:
    """Hidden states [N, H], [N, G] and heads [V, H], [V, G] of this rank's true vocabulary."""

    student_hidden_NH: Tensor
    student_head_VH: Tensor
    teacher_hidden_NG: Tensor
    teacher_head_VG: Tensor
    chunk_tokens: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits."""
        return working_dtype(self.student_hidden_NH, self.teacher_hidden_NG)

    def chunks(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each chunk of the token indices: they, and the logits [C, V] of student and teacher.

        The logits live in two buffers that the next chunk overwrites.
        """
        size = (2, min(self.chunk_tokens, len(tokens)), len(self.student_head_VH))
        student_CV, teacher_CV = self.student_hidden_NH.new_empty(size, dtype=self.dtype)
        for start in range(0, len(tokens), self.chunk_tokens):
            chunk = tokens[start : start + self.chunk_tokens]
            yield (
                chunk,
                logits_(
                    student_CV[: len(chunk)], self.student_hidden_NH[chunk], self.student_head_VH
                ),
                logits_(
                    teacher_CV[: len(chunk)], self.teacher_hidden_NG[chunk], self.teacher_head_VG
                ),
            )


def cut_heads(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    chunk_tokens: int,
    vocab_size: int | None,
    group: dist.ProcessGroup | None,
) -> tuple[Heads, VocabularyShard]:
    """Both heads cut to the true vocabulary, and which part of it this rank holds.

    Raises ValueError where shapes do not fit together or `chunk_tokens` is below 1.
    """
    fits = (
        len(student_head) == len(teacher_head)
        and len(student_hidden) == len(teacher_hidden)
        and student_hidden.shape[1] == student_head.shape[1]
        and teacher_hidden.shape[1] == teacher_head.shape[1]
    )
    if not fits:
        tensors = (student_hidden, student_head, teacher_hidden, teacher_head)
        shapes = [tuple(t.shape) for t in tensors]
        raise ValueError(f"hidden [N, H], head [V, H] of student and teacher wanted, not {shapes}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens {chunk_tokens} is not above 0")
    shard = VocabularyShard(len(student_head), vocab_size, group)
    width = shard.num_entries
    heads = Heads(
        student_hidden.detach(),
        student_head.detach()[:width],
        teacher_hidden.detach(),
        teacher_head.detach()[:width],
        chunk_tokens,
    )
    return heads, shard
