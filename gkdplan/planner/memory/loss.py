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
    payload: Payload
    backend: str
    chunk_tokens: int
    num_tokens: int
    vocab_size: int

    def tile_bytes(self) -> int:
        """What exists only inside the loss: both sides' logits of a chunk, the student's hidden
        states of it, and the buffers of a block or else the products of the gradient.

        From stored logits it is the block, or in the backward the gradient of the head.
        """
        block = NUM_BLOCK_BUFFERS * BLOCK_ROWS[self.backend] * self._ids * FP32_BYTES
        if self.payload is Payload.LOGITS:
            return max(block, self.student.head_elements * self.student.dtype.num_bytes)
        logits = 2 * self.chunk_tokens * self._ids * FP32_BYTES
        hidden = self.chunk_tokens * self.student.shape.hidden_size
        products = hidden * FP32_BYTES + self._narrowed_bytes()
        return logits + hidden * self.student.dtype.num_bytes + max(block, products)

    def gradient_bytes(self) -> int:
        """The gradient of the hidden states and of the head [V / t, h], float32 while it is summed
        up; from stored logits the gradient [N, V / t] only."""
        width = self.student.dtype.num_bytes
        if self.payload is Payload.LOGITS:
            return self.num_tokens * self.student.vocab_rows * width
        hidden = self.num_tokens * self.student.shape.hidden_size * width
        return hidden + self.student.head_elements * FP32_BYTES

    def kept_bytes(self) -> int:
        """What is left of it in the backward of the layers: a tied head's gradient, which waits for
        the embedding's."""
        if not self.student.shape.tied_embeddings:
            return 0
        return self.student.head_elements * self.student.dtype.num_bytes

    @property
    def _ids(self) -> int:
        """Ids of the true vocabulary on the rank that holds most of them."""
        return min(self.vocab_size, self.student.vocab_rows)

    def _narrowed_bytes(self) -> int:
        """Copies that products of a bf16 head with float32 logits need."""
        if self.student.dtype.num_bytes == FP32_BYTES:
            return 0
        if self.backend == "nccl":
            return self.chunk_tokens * self._ids * self.student.dtype.num_bytes
        return min(WIDENED_ROWS, self._ids) * self.student.shape.hidden_size * FP32_BYTES
