"""Named seconds of sampling responses: prompts in one pass, then a pass a token.

A pass over one token a row reads every weight and the whole cache of keys and values, so that it is
bound by the memory's bandwidth, or on a CPU and for many rows by the products.
"""

from collections.abc import Mapping

from gkdplan.planner.draft import Draft
from gkdplan.planner.memory.generation import PREFILL_TOKENS, SAMPLER_BYTES
from gkdplan.planner.timing.flops import attention_flops, head_flops, layer_flops
from gkdplan.planner.timing.machine import Machine
from gkdplan.planner.timing.vision import looking_s
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.vocab import Role

PREFILL = "prompts"
DECODE = "tokens one by one"
REFIT = "weights to the engine"


def sampling_seconds(draft: Draft, role: Role, machine: Machine) -> Mapping[str, float]:
    """Responses of the longest length to all of a rank's prompts; how fast a teacher's server is is
    not predicted."""
    if role is Role.TEACHER and draft.models.teacher.server is not None:
        return {}
    model = draft.models.student if role is Role.STUDENT else draft.models.teacher
    degrees = _degrees(draft, role)
    rows = max(1, draft.batch.global_rows // degrees.data)
    rows_at_once = min(rows, _most_rows(draft, role))
    num_rounds = -(-rows // rows_at_once)
    prompt, response = draft.data.max_length, draft.sampling.max_completion_length
    launch_s = model.shape.num_layers * _launch_s(draft, role, machine)
    length = prompt + response // 2
    token_s = _decode_s(model, degrees, machine, rows_at_once, length, launch_s)
    return {
        f"{role}: {PREFILL}": looking_s(draft, model, machine, rows)
        + _prefill_s(model, degrees, machine, rows, prompt),
        f"{role}: {DECODE}": num_rounds * response * token_s,
    }


def refit_seconds(draft: Draft, machine: Machine) -> Mapping[str, float]:
    """The student's weights gathered over its tensor axis, written to a bucket and from there to
    the engine, or over the network to a server."""
    if not draft.sampling.refit_bucket_bytes:
        return {}
    student, degrees = draft.models.student, draft.layout.student
    num_bytes = student.num_parameters * student.dtype.num_bytes
    if draft.sampling.vllm is None:
        copy_s = machine.link_s(num_bytes, span=machine.devices_per_node + 1)
    else:
        copy_s = machine.memory_s(4 * num_bytes)
    gather_s = machine.collective_s(num_bytes, degrees.tensor, span=degrees.tensor)
    return {REFIT: gather_s + copy_s}


def _degrees(draft: Draft, role: Role) -> AxisDegrees:
    """The mesh of the model that samples: that of the engine, where there is one."""
    engine = _engine(draft, role)
    if engine is not None:
        return AxisDegrees(engine.tensor, False, draft.layout.world_size // engine.tensor)
    return draft.layout.student if role is Role.STUDENT else draft.layout.teacher


def _engine(draft: Draft, role: Role) -> VllmPlan | None:
    """vllm on the ranks, where it has the model's weights."""
    return draft.sampling.vllm if role is Role.STUDENT else None


def _most_rows(draft: Draft, role: Role) -> int:
    """Rows that are sampled at one time: vllm's cache may hold fewer than there are."""
    engine = _engine(draft, role)
    if engine is None:
        return draft.batch.global_rows
    return max(1, min(engine.max_num_seqs, engine.num_sequences))


def _launch_s(draft: Draft, role: Role, machine: Machine) -> float:
    """Of a layer's pass over one token a row: none where vllm replays CUDA graphs."""
    engine = _engine(draft, role)
    has_graphs = engine is not None and engine.graph_bytes > 0
    return 0.0 if has_graphs else machine.assumed.layer_launch_s


def _prefill_s(
    model: ModelPlan, degrees: AxisDegrees, machine: Machine, rows: int, prompt: int
) -> float:
    """All layers, one stage after the other, in batches of `PREFILL_TOKENS` prompt tokens."""
    num_layers, tensor = model.shape.num_layers, degrees.tensor
    rows_of_a_batch = max(1, PREFILL_TOKENS // prompt)
    num_batches = -(-rows // rows_of_a_batch)
    flops = num_layers * layer_flops(model.shape, rows * prompt, prompt)
    flops += head_flops(model.shape, rows, model.padded_vocab_size)
    launch_s = num_batches * num_layers * machine.assumed.layer_launch_s
    compute_s = machine.compute_s(flops / tensor, model.dtype)
    return max(compute_s, launch_s) + _reductions_s(model, degrees, machine, rows * prompt)


def _decode_s(
    model: ModelPlan,
    degrees: AxisDegrees,
    machine: Machine,
    rows: int,
    length: int,
    launch_s: float,
) -> float:
    """One token a row, with `length` tokens of each row in the cache."""
    shape, tensor = model.shape, degrees.tensor
    flops = shape.num_layers * (
        layer_flops(shape, rows, 0) + 2 * attention_flops(shape, rows, length)
    )
    flops += head_flops(shape, rows, model.padded_vocab_size)
    kv_elements = shape.num_layers * rows * length * (shape.kv_size + shape.value_size)
    num_bytes = (_read_elements(model, rows) + kv_elements) * model.dtype.num_bytes
    pass_s = max(
        machine.memory_s(num_bytes / tensor),
        machine.decode_s(flops / tensor, model.dtype),
        launch_s,
    )
    draw_s = machine.memory_s(rows * model.padded_vocab_size * SAMPLER_BYTES)
    return pass_s + draw_s + _reductions_s(model, degrees, machine, rows)


def _read_elements(model: ModelPlan, rows: int) -> int:
    """Weights that a pass reads: the layers and the head, of experts those that some row chose."""
    shape, moe = model.shape, model.shape.moe
    elements = shape.num_parameters_of_layers + model.padded_vocab_size * shape.hidden_size
    if moe is not None:
        chosen = min(moe.num_experts, rows * moe.num_experts_per_token)
        idle = moe.num_experts - chosen
        of_layer = idle * 3 * shape.hidden_size * moe.expert_ffn_hidden_size
        elements -= (shape.num_layers - shape.num_dense_layers) * of_layer
    return elements


def _reductions_s(
    model: ModelPlan, degrees: AxisDegrees, machine: Machine, num_tokens: int
) -> float:
    """Two all-reduces of hidden states a layer over the tensor axis."""
    num_bytes = num_tokens * model.shape.hidden_size * model.dtype.num_bytes
    one = machine.collective_s(num_bytes, degrees.tensor, span=degrees.tensor)
    return model.shape.num_layers * 4 * one
