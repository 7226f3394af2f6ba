"""The rows of one forward, and the hidden states that they are between two layers."""

from dataclasses import dataclass

from gkdplan.planner.memory.model import RankModel


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go through a model at one time, `tokens` tokens of each on this rank of the context
    axis, which has `context` ranks."""

    rows: int
    tokens: int
    context: int = 1

    @property
    def num_tokens(self) -> int:
        return self.rows * self.tokens


def boundary_bytes(model: RankModel, batch: Batch) -> int:
    """The hidden states between two layers, or two stages, or the gradient of them."""
    tokens = batch.num_tokens // model.sequence_shards
    return tokens * model.shape.hidden_size * model.dtype.num_bytes


def gather_bytes(model: RankModel, batch: Batch) -> int:
    """Gathered hidden states of all tokens under sequence parallelism: N h w.

    Those of a trained layer's input are in a buffer that is allocated once and stays
    (megatron/core/utils.py, GlobalMemoryBuffer).
    """
    if not model.sequence:
        return 0
    return batch.num_tokens * model.shape.hidden_size * model.dtype.num_bytes
