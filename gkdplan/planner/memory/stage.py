"""A pipeline stage's part of a model, and how much of it is under way at one time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage `index` of `num_stages`, with `chunk_layers` layers in each of its chunks.

    The embedding is in the first chunk of the first stage; the final norm and the output head are
    in the last chunk of the last one.
    """

    index: int
    num_stages: int
    chunk_layers: tuple[int, ...]

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.num_stages - 1

    @property
    def is_whole(self) -> bool:
        return self.num_stages == 1

    @property
    def num_layers(self) -> int:
        return sum(self.chunk_layers)

    @property
    def num_chunks(self) -> int:
        return len(self.chunk_layers)


def whole_model(num_layers: int) -> Stage:
    """The only stage of a model without pipeline."""
    return Stage(0, 1, (num_layers,))


def num_chunks_in_flight(stage: Stage, num_micro_batches: int) -> int:
    """Chunks whose forward is done and whose backward is not, at most.

    1F1B with p stages: min(M, p - i). Interleaved with v chunks a stage, in groups of G = p
    micro-batches: min(M v, 2 (p - i - 1) + (v - 1) G + 1). Source:
    megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches.
    """
    after = stage.num_stages - stage.index - 1
    if stage.num_chunks == 1:
        return min(num_micro_batches, after + 1)
    warm_up = 2 * after + (stage.num_chunks - 1) * stage.num_stages
    return min(num_micro_batches * stage.num_chunks, warm_up + 1)
