"""What a layout must keep, one predicate a rule; sources are files of megatron-core 0.16.1."""

from gkdplan.planner.checks.laid_out import LaidOut
from gkdplan.planner.layout import is_sequence_parallel
from gkdplan.vocab import Role


def ranks_divide(model: LaidOut) -> bool:
    """world % (tensor x context x pipeline) (megatron/core/parallel_state.py)."""
    axes = model.parallel
    return model.world_size % (axes.tensor * axes.context * axes.pipeline) == 0


def expert_ranks_divide(model: LaidOut) -> bool:
    """world % (expert_tensor x expert x pipeline) (megatron/core/parallel_state.py)."""
    axes = model.parallel
    return model.world_size % (axes.expert_tensor * axes.expert * axes.pipeline) == 0


def attention_heads_divide(model: LaidOut) -> bool:
    """heads % tensor (megatron/core/transformer/transformer_config.py)."""
    return model.shape.num_attention_heads % model.parallel.tensor == 0


def kv_heads_divide(model: LaidOut) -> bool:
    """kv heads % tensor, or tensor % kv heads, where ranks share a head
    (megatron/core/transformer/transformer_config.py)."""
    heads, tensor = model.shape.num_kv_heads, model.parallel.tensor
    return heads % tensor == 0 or tensor % heads == 0


def qkv_columns_divide(model: LaidOut) -> bool:
    """The fused projection's columns % tensor (megatron/core/transformer/attention.py)."""
    return num_qkv_columns(model) % model.parallel.tensor == 0


def num_qkv_columns(model: LaidOut) -> int:
    return model.shape.query_size + 2 * model.shape.kv_size


def ffn_divides(model: LaidOut) -> bool:
    """Every MLP that is cut over the tensor axis (megatron/core/tensor_parallel/layers.py)."""
    return all(columns % model.parallel.tensor == 0 for columns in ffn_columns(model).values())


def ffn_columns(model: LaidOut) -> dict[str, int]:
    """By the key that says it: of the MLP, and of the expert that sees every token, where there
    are such."""
    shape, moe = model.shape, model.shape.moe
    dense = {"intermediate_size": shape.ffn_hidden_size} if shape.num_dense_layers else {}
    if moe is None or not moe.shared_ffn_hidden_size:
        return dense
    return dense | {"shared_expert_intermediate_size": moe.shared_ffn_hidden_size}


def sequence_has_tensor(model: LaidOut) -> bool:
    """Sequence parallelism divides tokens over the tensor axis
    (megatron/core/model_parallel_config.py)."""
    return model.parallel.tensor > 1 or not model.parallel.sequence


def experts_have_sequence(model: LaidOut) -> bool:
    """A layer of experts on a tensor axis trains under sequence parallelism only; the teacher does
    not train (megatron/core/transformer/moe/moe_layer.py)."""
    if model.shape.moe is None or Role.STUDENT not in model.roles:
        return True
    return model.parallel.tensor == 1 or is_sequence_parallel(model.parallel)


def experts_divide(model: LaidOut) -> bool:
    """experts % expert (megatron/core/transformer/moe/moe_layer.py)."""
    moe = model.shape.moe
    return moe is None or moe.num_experts % model.parallel.expert == 0


def expert_ffn_divides(model: LaidOut) -> bool:
    """An expert's ffn % expert_tensor (megatron/core/tensor_parallel/layers.py)."""
    moe = model.shape.moe
    return moe is None or moe.expert_ffn_hidden_size % model.parallel.expert_tensor == 0


def expert_axis_has_experts(model: LaidOut) -> bool:
    """Only experts are spread over the expert axis
    (megatron/core/transformer/transformer_config.py)."""
    return model.shape.moe is not None or model.parallel.expert == 1


def expert_tensor_axis_has_experts(model: LaidOut) -> bool:
    """This planner's own rule: a degree that divides nothing would be ignored."""
    return model.shape.moe is not None or model.parallel.expert_tensor == 1


def whole_experts_are_cut_like_the_rest(model: LaidOut) -> bool:
    """This planner's own rule. With one expert rank megatron-core counts experts among the dense
    weights (megatron/core/tensor_parallel/layers.py, `allreduce`) and sums their gradients over
    the data ranks only: tensor ranks with the same expert would learn apart."""
    axes = model.parallel
    learns = model.shape.moe is not None and Role.STUDENT in model.roles
    return not learns or axes.expert > 1 or axes.expert_tensor == axes.tensor


def ends_leave_layers(model: LaidOut) -> bool:
    """This planner's own rule: Megatron takes a negative number of layers for the other stages,
    and one stage for an end."""
    rest, num_stages = layers_between_ends(model)
    has_ends = num_stages < model.parallel.pipeline
    return rest >= 0 and (model.parallel.pipeline > 1 or not has_ends)


def stages_divide(model: LaidOut) -> bool:
    """Equal shares of the layers that the ends leave, at least one each
    (megatron/core/transformer/transformer_config.py and transformer_block.py)."""
    if model.parallel.stage_layers is not None or not ends_leave_layers(model):
        return True
    rest, num_stages = layers_between_ends(model)
    return rest == 0 if num_stages == 0 else rest > 0 and rest % num_stages == 0


def layers_between_ends(model: LaidOut) -> tuple[int, int]:
    """Layers and stages that have no number of their own."""
    axes = model.parallel
    ends = [n for n in (axes.first_stage_layers, axes.last_stage_layers) if n is not None]
    return model.shape.num_layers - sum(ends), axes.pipeline - len(ends)


def given_stages_are_whole(model: LaidOut) -> bool:
    """As many counts as stages, and every layer in one
    (megatron/core/transformer/pipeline_parallel_layer_layout.py)."""
    given = model.parallel.stage_layers
    if given is None:
        return True
    return len(given) == model.parallel.pipeline and sum(given) == model.shape.num_layers


def chunks_divide(model: LaidOut) -> bool:
    """The layers of every stage % virtual_pipeline
    (megatron/core/transformer/transformer_config.py and transformer_block.py)."""
    axes = model.parallel
    if axes.stage_layers is not None:
        return True
    return all(num % axes.virtual_pipeline == 0 for num in stage_sizes(model))


def given_chunks_divide(model: LaidOut) -> bool:
    """This planner's own rule: the chunks of a stage are equal; Megatron asks for no such thing of
    stages that are given one by one."""
    chunks = model.parallel.virtual_pipeline
    return all(num % chunks == 0 for num in model.parallel.stage_layers or ())


def stage_sizes(model: LaidOut) -> tuple[int, ...]:
    """The numbers of layers that occur, the first stage's first and the last stage's last."""
    axes = model.parallel
    if axes.stage_layers is not None:
        return axes.stage_layers
    rest, num_stages = layers_between_ends(model)
    middle = rest // num_stages if num_stages > 0 else None
    sizes = (axes.first_stage_layers, middle, axes.last_stage_layers)
    return tuple(size for size in sizes if size is not None)


def chunks_have_stages(model: LaidOut) -> bool:
    """Interleaving needs several stages (megatron/core/parallel_state.py)."""
    return model.parallel.virtual_pipeline == 1 or model.parallel.pipeline > 1
