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

    @property
    def is_interleaved(self) -> bool:
        return self.num_chunks > 1


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
    if not stage.is_interleaved:
        return min(num_micro_batches, after + 1)
    warm_up = 2 * after + (stage.num_chunks - 1) * stage.num_stages
    return min(num_micro_batches * stage.num_chunks, warm_up + 1)


def num_inputs_in_flight(stage: Stage, num_in_flight: int) -> int:
    """Of the chunks in flight those whose input another stage, or chunk, has sent: all but the
    model's first, which comes in groups of p micro-batches."""
    if not stage.is_first:
        return num_in_flight
    rounds, rest = divmod(num_in_flight, stage.num_stages * stage.num_chunks)
    num_first = rounds * stage.num_stages + min(rest, stage.num_stages)
    return num_in_flight - num_first


def num_left_at_embedding(stage: Stage, num_micro_batches: int) -> int:
    """Chunks in flight when the first backward of the model's first chunk begins: interleaved that
    of the later chunks of p micro-batches is over, and few may be left."""
    num_over = stage.num_stages * (stage.num_chunks - 1)
    num_left = num_micro_batches * stage.num_chunks - num_over
    return min(num_chunks_in_flight(stage, num_micro_batches), num_left)


def num_held_in_forward(stage: Stage, num_micro_batches: int) -> int:
    """Hidden states that a schedule without backward holds beside those of the micro-batch under
    way: the output sent last and, where a stage also receives, the input before. Interleaved about
    p, which are received early where there are more micro-batches than stages."""
    if stage.is_interleaved:
        return stage.num_stages if num_micro_batches > stage.num_stages else 2
    sends, receives = not stage.is_last, not stage.is_first
    return sends + (sends and receives)


def num_held_in_backward(stage: Stage, num_micro_batches: int) -> int:
    """Hidden states and gradients of them that a schedule holds beside what is in flight: 1F1B the
    input's gradient of the micro-batch before; interleaved about p between its forwards and
    backwards (megatron/core/pipeline_parallel/schedules.py; the number is a trace's)."""
    num_chunks = num_micro_batches * stage.num_chunks
    if not stage.is_interleaved:
        return 1 if num_micro_batches > 1 and not stage.is_first else 0
    if num_chunks_in_flight(stage, num_micro_batches) == num_chunks:
        return 0
    return stage.num_stages - 1 if stage.is_first else stage.num_stages
