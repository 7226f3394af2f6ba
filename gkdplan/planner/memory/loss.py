"""Bytes of the loss, vocabulary-parallel: chunks of logits, gradients made in the forward.

C tokens of a chunk, N response tokens of a micro-batch, v ids of the true vocabulary on a rank,
V / t rows of the padded one, h hidden size, w bytes of an element of the student.
"""

from dataclasses import dataclass

from gkdplan.planner.memory.model import RankModel
from gkdplan.vocab import Payload

FP32_BYTES = 4
BLOCK_ROWS = {"gloo": 8, "nccl": 64}
"""Rows that the divergence works on at one time, as in runtime/loss/distribution.py."""
NUM_BLOCK_BUFFERS = 4
WIDENED_ROWS = 4096
"""Rows of a bf16 head that a CPU widens at one time, as in runtime/loss/products.py."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one micro-batch on one rank."""

    student: RankModel
    teacher: RankModel
    payload: Payload
    backend: str
    chunk_tokens: int
    num_tokens: int
    vocab_size: int

    def tile_bytes(self) -> int:
        """What exists only inside the loss: both sides' logits of a chunk with the largest of what
        passes beside them, or after them the rounded copy of a bf16 head's gradient.

        From stored logits it is the block, or in the backward the gradient of the head.
        """
        block_rows = min(BLOCK_ROWS[self.backend], self.chunk_tokens)
        block = NUM_BLOCK_BUFFERS * block_rows * self._ids * FP32_BYTES
        head = self._head_gradient_elements * self.student.dtype.num_bytes
        if self.payload is Payload.LOGITS:
            return max(block, head)
        passing = max(
            block,
            self._states_bytes(self.student),
            self._states_bytes(self.teacher),
            self._product_bytes(),
        )
        logits = 2 * self.chunk_tokens * self._ids * FP32_BYTES
        return max(logits + passing, head if _is_narrow(self.student) else 0)

    def gradient_bytes(self) -> int:
        """The gradient of the hidden states and of the head [V / t, h], float32 while it is summed
        up; from stored logits the gradient [N, V / t] only."""
        width = self.student.dtype.num_bytes
        if self.payload is Payload.LOGITS:
            return self.num_tokens * self.student.vocab_rows * width
        hidden = self.num_tokens * self.student.shape.hidden_size * width
        return hidden + self._head_gradient_elements * FP32_BYTES

    def kept_bytes(self) -> int:
        """What is left of it in the backward of the layers: the gradient of a head tied to an
        embedding of the same stage, which waits for the embedding's."""
        if not (self.student.shape.tied_embeddings and self.student.stage.is_whole):
            return 0
        return self._head_gradient_elements * self.student.dtype.num_bytes

    @property
    def _head_gradient_elements(self) -> int:
        return self.student.head_elements if self.student.trains_base else 0

    @property
    def _ids(self) -> int:
        """Ids of the true vocabulary on the rank that holds most of them."""
        return min(self.vocab_size, self.student.vocab_rows)

    def _states_bytes(self, model: RankModel) -> int:
        """A chunk's hidden states; a CPU widens bf16 to float32, and the head part by part."""
        hidden_size = model.shape.hidden_size
        if self.backend == "nccl" or not _is_narrow(model):
            return self.chunk_tokens * hidden_size * model.dtype.num_bytes
        widened_rows = self.chunk_tokens + min(WIDENED_ROWS, self._ids)
        return widened_rows * hidden_size * FP32_BYTES

    def _product_bytes(self) -> int:
        """The float32 gradient of a chunk's hidden states, on CUDA beside the rounded gradient of
        its logits; on a CPU `_states_bytes` is never less."""
        product = self.chunk_tokens * self.student.shape.hidden_size * FP32_BYTES
        if self.backend == "nccl" and _is_narrow(self.student):
            product += self.chunk_tokens * self._ids * self.student.dtype.num_bytes
        return product


def _is_narrow(model: RankModel) -> bool:
    return model.dtype.num_bytes < FP32_BYTES
