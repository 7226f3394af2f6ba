"""The rows of vllm on a rank that trains: its weights, its cache, and the way of new weights."""

from collections.abc import Iterator

from gkdplan.planner.memory.buffer import (
    ACTIVATIONS,
    ENGINE_WEIGHTS,
    FIRST,
    KV_CACHE,
    LAST,
    REFIT_BUFFER,
    Buffer,
)
from gkdplan.planner.memory.engine import EngineModel, forward_bytes, reload_bytes, weight_bytes
from gkdplan.planner.memory.engine_vision import eye_weight_bytes, seeing_bytes, waiting_bytes
from gkdplan.planner.memory.parameters import largest_elements
from gkdplan.planner.memory.rank import Rank
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.vocab import Phase


def vllm_buffers(rank: Rank) -> Iterator[Buffer]:
    """Weights and cache stay, unless the schedule lets the engine sleep; a server holds its own,
    and only the way to it is here."""
    sampling, student = rank.draft.sampling, rank.draft.models.student
    if not sampling.refit_bucket_bytes:
        return
    refit = sampling.refit_bucket_bytes + _gathered_bytes(rank)
    engine = sampling.vllm
    if engine is not None:
        model = EngineModel(student.shape, student.dtype, engine.tensor)
        refit += reload_bytes(model)
        forward = forward_bytes(model, engine.max_num_batched_tokens, engine.max_num_seqs)
        forward = seeing_bytes(model, engine, forward)
        if rank.draft.layout.backend == "gloo":
            forward += waiting_bytes(model, engine, _rows_asked(rank, engine))
        weights = weight_bytes(model) + eye_weight_bytes(model, engine)
        yield Buffer(ENGINE_WEIGHTS, weights, FIRST, LAST)
        yield Buffer(KV_CACHE, engine.kv_cache_bytes, FIRST, LAST)
        yield Buffer(ACTIVATIONS, forward, Phase.GENERATE, Phase.GENERATE)
    yield Buffer(REFIT_BUFFER, refit, Phase.REFIT, Phase.REFIT)


def _rows_asked(rank: Rank, engine: VllmPlan) -> int:
    """Of a global batch, those of one engine: host memory is a cpu's only memory."""
    draft = rank.draft
    return -(-draft.batch.global_rows * engine.tensor // draft.layout.world_size)


def _gathered_bytes(rank: Rank) -> int:
    """Beside the bucket the pieces of one tensor, gathered over the tensor axis and not yet
    joined."""
    student = rank.student.model
    if student.tensor == 1:
        return 0
    return max(map(largest_elements, student.whole_chunks)) * student.dtype.num_bytes
