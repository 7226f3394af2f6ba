"""Bytes of the loss, vocabulary-parallel: chunks of logits, gradients made in the forward.

C tokens of a chunk, N response tokens of a micro-batch, v ids of the true vocabulary on a rank,
V / t rows of the padded one, h hidden size, w bytes of an element of the student, K the likeliest
ids that a payload of them has.
"""

from dataclasses import dataclass

from gkdplan.planner.memory.model import RankModel
from gkdplan.vocab import LossBackend, Payload

FP32_BYTES = 4
BLOCK_ROWS = {"gloo": 8, "nccl": 64}
"""Rows that the divergence works on at one time, as in runtime/loss/distribution.py."""
NUM_BLOCK_BUFFERS = 4
FP64_BYTES = 8
INT64_BYTES = 8
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
    num_kept: int = 0
    """K of a payload of the likeliest ids."""
    has_labels: bool = False
    """Whether cross-entropy is added in some step."""
    loss_backend: LossBackend = LossBackend.EAGER

    def tile_bytes(self) -> int:
        """What exists only inside the loss: the logits of a chunk, where hidden states travel of
        both sides, with the largest of what passes beside them, or after them the rounded copy of a
        bf16 head's gradient.

        From stored logits it is the block, or in the backward the gradient of the head, after that
        of the hidden states. Bounded logits stay beside their gradient, or their slope does.
        """
        head = self._head_gradient_elements * self.student.dtype.num_bytes
        blocks = self._block_bytes(self._own_buffers(NUM_BLOCK_BUFFERS))
        is_bounded = self.student.shape.logit_softcap is not None
        if self.payload is Payload.LOGITS:
            blocks += is_bounded * self._stored_logits_bytes
            hidden = self.num_tokens * self.student.shape.hidden_size * self.student.dtype.num_bytes
            return max(blocks, hidden + head)
        passing = [self._states_bytes(self.student), self._product_bytes()]
        if self.payload is Payload.TOP_K:
            sides = 1
            passing.append(self._bucket_bytes())
        else:
            sides = 2
            passing += blocks, self._states_bytes(self.teacher)
        logits = (sides + is_bounded) * self.chunk_tokens * self._ids * FP32_BYTES
        return max(logits + max(passing), head if _is_narrow(self.student) else 0)

    def token_bytes(self) -> int:
        """Of each response token its two places in the hidden states; from hidden states also its
        number and weight, and of those of a chunk the weight again and five sums, with labels the
        label, its place and weight and two sums more. Places int64, weights float32, sums float64.
        """
        places = 2 * INT64_BYTES * self.num_tokens
        if self.payload is Payload.LOGITS:
            return places
        numbers = (INT64_BYTES + FP32_BYTES) * self.num_tokens
        sums = FP32_BYTES + 5 * FP64_BYTES
        if self.has_labels:
            sums += 2 * INT64_BYTES + FP32_BYTES + 2 * FP64_BYTES
        return places + numbers + sums * min(self.chunk_tokens, self.num_tokens)

    def search_bytes(self) -> int:
        """What the teacher's rank passes through memory to find the likeliest ids of a chunk: its
        logits, with its hidden states or the buckets beside them; where a tensor group searches
        together, with the likeliest of all its ranks."""
        ids = min(self.vocab_size, self.teacher.vocab_rows)
        logits = self.chunk_tokens * ids * FP32_BYTES
        passing = max(self._states_bytes(self.teacher), self._buckets(1))
        if self.teacher.tensor > 1:
            candidates = (1 + 2 * self.teacher.tensor) * 2 * FP64_BYTES
            passing = max(passing, self.chunk_tokens * self.num_kept * candidates)
        return logits + passing

    def gradient_bytes(self) -> int:
        """The gradient of the hidden states and of the head [V / t, h], float32 while it is summed
        up; from stored logits the gradient [N, V / t] only."""
        width = self.student.dtype.num_bytes
        if self.payload is Payload.LOGITS:
            return self._stored_logits_bytes
        hidden = self.num_tokens * self.student.shape.hidden_size * width
        return hidden + self._head_gradient_elements * FP32_BYTES

    def kept_bytes(self) -> int:
        """What is left of it in the backward of the layers: the gradient of a head tied to an
        embedding of the same stage, which waits for the embedding's."""
        if not (self.student.shape.tied_embeddings and self.student.stage.is_whole):
            return 0
        return self._head_gradient_elements * self.student.dtype.num_bytes

    def _block_bytes(self, num_buffers: int) -> int:
        return num_buffers * self._block_rows * self._ids * FP32_BYTES

    def _bucket_bytes(self) -> int:
        """Beside the logits of a chunk, and with labels the buffer of the cross-entropy."""
        return self._buckets(self._own_buffers(2 if self.has_labels else 1))

    def _own_buffers(self, of_eager: int) -> int:
        """What torch.compile keeps of a block is priced as eager's buffers; Triton keeps none."""
        return 0 if self.loss_backend is LossBackend.TRITON else of_eager

    def _buckets(self, num_blocks: int) -> int:
        """The K ids and the tail of a chunk's tokens, 32 bytes each: places, log masses, the
        teacher's side, or what makes them; where the group sums them up, those of its ranks."""
        gathered = 2 * self.student.tensor if self.student.tensor > 1 else 0
        width = (4 + gathered) * FP64_BYTES
        return self._block_bytes(num_blocks) + self.chunk_tokens * (self.num_kept + 1) * width

    @property
    def _block_rows(self) -> int:
        return min(BLOCK_ROWS[self.backend], self.chunk_tokens)

    @property
    def _stored_logits_bytes(self) -> int:
        return self.num_tokens * self.student.vocab_rows * self.student.dtype.num_bytes

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
