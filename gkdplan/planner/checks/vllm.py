"""Rules of vllm on the ranks that train: what its tensor degree divides, what a cpu refuses, and
whether its share of memory holds a sequence. Sources are those of vllm 0.32."""

from collections.abc import Iterator

from gkdplan.facts.model import Facts
from gkdplan.planner.checks.rule import Finding, one_of, rule
from gkdplan.planner.engine import decide_vllm, engine_tensor, smallest_share
from gkdplan.planner.memory.engine import EngineModel, kv_token_bytes, padded_vocab_rows
from gkdplan.planner.models import student_shape
from gkdplan.planner.sources import effective_mix
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.shape import ModelShape
from gkdplan.spec.plan import Plan
from gkdplan.units import format_bytes
from gkdplan.vision import InternVision
from gkdplan.vocab import Engine

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""vllm/v1/attention/backends/cpu_attn.py, get_supported_head_sizes."""
CPU_LATENT_SIZE = 512, 64
"""Of a latent of keys and values, and of what turns of the keys
(vllm/v1/attention/backends/mla/cpu_mla.py)."""


@rule("GK240")
def engine_tensor_divides_the_student(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """num_attention_heads % tensor (vllm/config/model.py, verify_with_parallel_config); kv heads
    % tensor, or tensor % kv heads, and ffn % tensor (vllm/model_executor/layers/linear.py); padded
    vocabulary % tensor (vllm/model_executor/layers/vocab_parallel_embedding.py); of a tower its
    heads and ffn (vllm/model_executor/models/clip.py, qwen2_5_vl.py)."""
    if not _is_colocated(plan):
        return
    shape, degree = student_shape(plan, facts), engine_tensor(plan)
    for number, what in _undivided(shape, degree):
        yield Finding(
            f"the student has {number:,} {what}, not divisible by vllm's tensor degree {degree}",
            _tensor_key(plan),
            label="each rank of the engine holds an equal share",
            notes=(f"sizes from {facts.student.origin}",),
            help=_other_degrees(plan, shape),
        )


@rule("GK241")
def ranks_divide_into_engines(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """world % tensor: every rank belongs to one engine, and an engine to one node
    (vllm/distributed/parallel_state.py, initialize_model_parallel)."""
    if not _is_colocated(plan):
        return
    cluster, degree = plan.cluster, engine_tensor(plan)
    if cluster.devices_per_node % degree:
        yield Finding(
            f"{cluster.devices_per_node} devices of a node cannot be divided into engines of "
            f"{degree}",
            _tensor_key(plan),
            label="every rank belongs to one engine, and an engine to one node",
            help=_other_degrees(plan, student_shape(plan, facts)),
        )


@rule("GK242")
def heads_have_a_size_that_vllm_knows(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """On a cpu vllm has kernels for some sizes only (vllm/v1/attention/backends/cpu_attn.py and
    mla/cpu_mla.py, of whatever a query of latents has)."""
    shape = facts.student.shape
    if plan.generation.engine is not Engine.VLLM or facts.device.backend != "gloo":
        return
    size, latent = shape.head_dim, shape.latent
    if latent is not None:
        found = latent.kv_rank, latent.rotated_size
        if found != CPU_LATENT_SIZE:
            yield Finding(
                "vllm has no attention on a cpu for latents of {} features beside {} that "
                "turn".format(*found),
                "generation.engine",
                label="it knows {} beside {}".format(*CPU_LATENT_SIZE),
                notes=(
                    "kv_lora_rank = {}, qk_rope_head_dim = {}, from {}".format(
                        *found, facts.student.origin
                    ),
                ),
                help=('set `generation.engine` to "megatron"',),
            )
    elif plan.generation.mode == "colocate" and size not in CPU_HEAD_SIZES:
        yield Finding(
            f"vllm has no attention on a cpu for heads of {size}",
            "generation.engine",
            label=f"it knows {one_of(CPU_HEAD_SIZES)}",
            notes=(f"head_dim = {size}, from {facts.student.origin}",),
            help=('set `generation.engine` to "megatron"',),
        )


@rule("GK416")
def a_sleeping_engine_has_a_gpu(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Sleep mode unmaps CUDA memory; a cpu refuses it (vllm/config/model.py)."""
    level = plan.generation.sleep_level
    if _is_colocated(plan) and facts.device.backend == "gloo" and level:
        yield Finding(
            f"vllm cannot sleep on a cpu, and `generation.sleep_level` is {level}",
            "generation.sleep_level",
            label="it is memory of a gpu that a sleeping engine gives back",
            help=("set `generation.sleep_level` to 0",),
        )


@rule("GK305")
def the_share_leaves_a_cache(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Without blocks vllm does not start (vllm/v1/core/kv_cache_utils.py,
    _check_enough_kv_cache_memory)."""
    engine = _engine(plan, facts)
    if engine is not None and not engine.num_blocks:
        share = format_bytes(int(engine.gpu_memory_utilization * facts.device.memory_bytes))
        yield _too_small(
            engine, plan, facts, f"vllm's share of {share} leaves nothing for a kv cache"
        )


@rule("GK306")
def the_cache_holds_a_sequence(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """max_model_len tokens and the block that is kept back (vllm/v1/core/kv_cache_utils.py,
    check_enough_kv_cache_memory)."""
    engine = _engine(plan, facts)
    if engine is not None and engine.num_blocks and not engine.num_sequences:
        tokens = f"{engine.capacity_tokens:,}"
        yield _too_small(
            engine, plan, facts, f"a kv cache of {tokens} tokens holds no whole sequence"
        )


RULES = (
    engine_tensor_divides_the_student,
    ranks_divide_into_engines,
    heads_have_a_size_that_vllm_knows,
    a_sleeping_engine_has_a_gpu,
    the_share_leaves_a_cache,
    the_cache_holds_a_sequence,
)


def _engine(plan: Plan, facts: Facts) -> VllmPlan | None:
    """The engine, where there is one, of a degree that divides the student."""
    shape = student_shape(plan, facts)
    samples = _is_colocated(plan) and effective_mix(plan)[0] > 0
    if not samples or any(_undivided(shape, engine_tensor(plan))):
        return None
    return decide_vllm(plan, shape, facts)


def _too_small(engine: VllmPlan, plan: Plan, facts: Facts, message: str) -> Finding:
    model = EngineModel(student_shape(plan, facts), plan.student.dtype, engine.tensor)
    percent = smallest_share(engine, model, facts.device)
    return Finding(
        message,
        "generation.gpu_memory_utilization",
        label=f"a prompt and its response take {engine.max_model_len:,} tokens",
        notes=(f"{format_bytes(kv_token_bytes(model))} a token on a rank, tensor {engine.tensor}",),
        help=(
            "set `generation.tensor` higher, or shorten prompts and responses"
            if percent is None
            else f"set `generation.gpu_memory_utilization` to at least {percent / 100:g}",
        ),
    )


def _is_colocated(plan: Plan) -> bool:
    return plan.generation.engine is Engine.VLLM and plan.generation.mode == "colocate"


def _undivided(shape: ModelShape, degree: int) -> Iterator[tuple[int, str]]:
    if shape.num_attention_heads % degree:
        yield shape.num_attention_heads, "attention heads"
    if shape.num_kv_heads % degree and degree % shape.num_kv_heads:
        yield shape.num_kv_heads, "kv heads"
    for width in _mlp_widths(shape):
        if width % degree:
            yield width, "ffn columns"
    if padded_vocab_rows(shape) % degree:
        yield padded_vocab_rows(shape), "padded rows of the embedding"
    if shape.vision is not None:
        if shape.vision.num_heads % degree and not isinstance(shape.vision, InternVision):
            yield shape.vision.num_heads, "heads in its tower"
        if shape.vision.ffn_hidden_size % degree:
            yield shape.vision.ffn_hidden_size, "ffn columns in its tower"


def _mlp_widths(shape: ModelShape) -> tuple[int, ...]:
    """Of the MLP, of a routed expert and of the one that sees every token, where there are such."""
    moe, dense = shape.moe, (shape.ffn_hidden_size,) if shape.num_dense_layers else ()
    return (
        dense if moe is None else (*dense, moe.expert_ffn_hidden_size, moe.shared_ffn_hidden_size)
    )


def _other_degrees(plan: Plan, shape: ModelShape) -> tuple[str, ...]:
    devices = plan.cluster.devices_per_node
    degrees = [
        degree
        for degree in range(1, min(devices, shape.num_attention_heads) + 1)
        if devices % degree == 0 and not any(_undivided(shape, degree))
    ]
    return (f"set `generation.tensor` to {one_of(degrees)}",) if degrees else ()


def _tensor_key(plan: Plan) -> str:
    """Where the degree is written: left out, it is the student's."""
    return "student.parallel.tensor" if plan.generation.tensor is None else "generation.tensor"
