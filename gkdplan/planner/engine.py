"""What vllm is told: its shares of memory, its limits, and the size of a refit's bucket."""

import math
from dataclasses import replace
from math import prod

from gkdplan.facts.model import Device, Facts
from gkdplan.planner.layout import world_size_of
from gkdplan.planner.memory.engine import EngineModel, forward_bytes, kv_token_bytes, weight_bytes
from gkdplan.planner.memory.engine_vision import eye_weight_bytes, seeing_bytes
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.sampling import ServerLimits, VllmPlan
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Role

BLOCK_TOKENS = {"gloo": 128, "nccl": 16}
"""Of a block of the kv cache, by backend (vllm/config/cache.py; vllm/platforms/cpu.py)."""
LATENT_BLOCK_TOKENS = 16
"""Of a cache of latents, on a CPU too (vllm/v1/attention/backends/mla/cpu_mla.py)."""
MAX_SEQUENCES = 256
"""Sequences that are worked on at one time, at most: vllm's default on most devices."""
MAX_BATCHED_TOKENS = 8192
"""Tokens of one forward: prompts come in chunks (vllm/engine/arg_utils.py, get_batch_defaults)."""
GRAPH_BYTES = 2**29
"""Of CUDA graphs, for which vllm profiles and sets memory aside: an assumption."""
REFIT_BUCKET_BYTES = 2**29
"""Weights that travel to the engine together, unless one tensor is larger."""


def engine_tensor(plan: Plan) -> int:
    """`generation.tensor`, or the student's degree."""
    return plan.generation.tensor or plan.student.parallel.tensor


def most_images(facts: Facts) -> int:
    """That a row shows."""
    return max(file.most_images for file in (*facts.train, *facts.eval))


def decide_vllm(plan: Plan, student: ModelShape, facts: Facts) -> VllmPlan:
    """An engine on each `tensor` ranks, between which the prompts of a global batch are divided.

    The kv cache is what is left of the share: vllm takes gpu_memory_utilization of all of the
    device, and from it weights, the peak of a forward, its own communicator and its graphs
    (vllm/v1/worker/gpu_worker.py, determine_available_memory). The run plan names the bytes, so
    that they are what was planned; on a CPU vllm has no other way.
    """
    generation, device = plan.generation, facts.device
    tensor = engine_tensor(plan)
    length = plan.data.max_length + generation.max_completion_length
    num_prompts = -(-plan.batch.global_ * tensor // world_size_of(plan.cluster))
    max_sequences = min(num_prompts, MAX_SEQUENCES)
    undecided = VllmPlan(
        tensor=tensor,
        gpu_memory_utilization=generation.gpu_memory_utilization,
        sleep_level=generation.sleep_level,
        max_model_len=length,
        max_num_seqs=max_sequences,
        max_num_batched_tokens=max(max_sequences, min(MAX_BATCHED_TOKENS, max_sequences * length)),
        graph_bytes=GRAPH_BYTES if device.backend == "nccl" else 0,
        block_tokens=_block_tokens(student, device.backend),
        num_blocks=0,
        kv_cache_bytes=0,
        **_images(student, max(1, most_images(facts)), plan.data.max_length),
    )
    share = math.ceil(generation.gpu_memory_utilization * device.memory_bytes)
    model = EngineModel(student, plan.student.dtype, tensor)
    left = max(0, share - _bytes_beside_the_cache(undecided, model, device))
    block_bytes = undecided.block_tokens * kv_token_bytes(model)
    num_blocks = left // block_bytes
    return replace(undecided, num_blocks=num_blocks, kv_cache_bytes=num_blocks * block_bytes)


def _block_tokens(shape: ModelShape, backend: str) -> int:
    return BLOCK_TOKENS[backend] if shape.latent is None else LATENT_BLOCK_TOKENS


def _images(student: ModelShape, max_images: int, max_length: int) -> dict[str, int]:
    """Of an engine that sees: images of a prompt, and tokens of one image and of all."""
    vision = student.vision
    if vision is None:
        return {}
    return {
        "max_images": max_images,
        "image_tokens": vision.most_tokens(1, max_length),
        "prompt_image_tokens": vision.most_tokens(max_images, max_length),
    }


def server_limits(plan: Plan, run_plan: RunPlan, role: Role) -> ServerLimits:
    """Of one server: its share of the prompts of a global batch at one time, each as long as the
    plan allows. On a CPU the cache holds just these; the default is a share of the machine.

    A teacher draws one token that nobody reads behind each row that it scores.
    """
    model: ModelPlan = getattr(run_plan.models, role)
    is_student = role is Role.STUDENT
    length = run_plan.data.max_length + run_plan.sampling.max_completion_length
    num_servers = max(1, len(run_plan.sampling.server_urls)) if is_student else 1
    limits = ServerLimits(
        max_model_len=length if is_student else length + 1,
        max_num_seqs=min(-(-run_plan.batch.global_rows // num_servers), MAX_SEQUENCES),
        max_logprobs=1 if is_student else _ids_asked_of_teacher(run_plan),
        tensor=plan.generation.tensor or 1 if is_student else 1,
        gpu_memory_utilization=_share_asked_for(plan) if is_student else None,
        kv_cache_bytes=None,
    )
    vision, pictures = model.shape.vision, run_plan.data.pictures
    if vision is not None and pictures is not None:
        images = vision.most_tokens(1, run_plan.data.max_length)
        limits = replace(limits, max_images=max(1, pictures.number), image_tokens=images)
    if run_plan.layout.backend != "gloo":
        return limits
    block = _block_tokens(model.shape, run_plan.layout.backend)
    blocks_of_one = -(-limits.max_model_len // block)
    num_tokens = (1 + limits.max_num_seqs * blocks_of_one) * block
    token_bytes = kv_token_bytes(EngineModel(model.shape, model.dtype, limits.tensor))
    return replace(limits, kv_cache_bytes=num_tokens * token_bytes)


def _ids_asked_of_teacher(run_plan: RunPlan) -> int:
    """The likeliest of a token, and rows of the embedding that no token has: they may be likelier
    (gkdplan/runtime/teacher/scores.py)."""
    models = run_plan.models
    num_rows = models.teacher.shape.vocab_size
    return min(num_rows, (run_plan.objective.top_k or 1) + num_rows - models.vocab_size)


def _share_asked_for(plan: Plan) -> float | None:
    is_written = "gpu_memory_utilization" in plan.generation.model_fields_set
    return plan.generation.gpu_memory_utilization if is_written else None


def smallest_share(engine: VllmPlan, model: EngineModel, device: Device) -> int | None:
    """Percent of the device's memory with which the cache holds one sequence; None above 100."""
    num_blocks = 1 - (-engine.max_model_len // engine.block_tokens)
    cache = num_blocks * engine.block_tokens * kv_token_bytes(model)
    share = (cache + _bytes_beside_the_cache(engine, model, device)) / device.memory_bytes
    return math.ceil(100 * share) if share <= 1 else None


def _bytes_beside_the_cache(engine: VllmPlan, model: EngineModel, device: Device) -> int:
    weights = weight_bytes(model) + eye_weight_bytes(model, engine)
    passing = forward_bytes(model, engine.max_num_batched_tokens, engine.max_num_seqs)
    communicator = device.communicator_bytes if engine.tensor > 1 else 0
    return weights + seeing_bytes(model, engine, passing) + communicator + engine.graph_bytes


def refit_bucket_bytes(student: ModelPlan, is_colocated: bool) -> int:
    """A bucket holds whole tensors as the checkpoint has them, the largest at least, and never more
    than there is. An engine on the ranks takes them one by one: its bucket is the largest."""
    shape, width = student.shape, student.dtype.num_bytes
    embedding = shape.vocab_size * shape.hidden_size
    largest = max(embedding, shape.hidden_size * max(shape.ffn_hidden_size, shape.query_size))
    if shape.vision is not None:
        largest = max(largest, *map(prod, shape.vision.tensors().values()))
    wanted = 0 if is_colocated else REFIT_BUCKET_BYTES
    return min(shape.num_parameters * width, max(wanted, largest * width))
