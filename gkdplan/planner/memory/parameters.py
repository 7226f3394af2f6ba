"""The parameter tensors of one rank, in the order in which megatron-core registers them."""

from dataclasses import dataclass
from math import prod

from gkdplan.latent import LatentShape
from gkdplan.planner.memory.experts import ExpertShare, routed_sizes, shared_sizes
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a rank's shard.

    `is_shared` marks each copy of a tied embedding whose ends lie on different pipeline stages;
    `is_vector` a norm's weight or a bias, which no weight decay shrinks; `is_divided` an expert
    that only some ranks of the stage hold. What is not `is_trained` has no gradient. With
    `is_float32` it is so whatever the model's dtype.
    """

    name: str
    num_elements: int
    is_shared: bool = False
    is_vector: bool = False
    is_trained: bool = True
    is_divided: bool = False
    is_float32: bool = False

    def num_bytes(self, dtype: Dtype) -> int:
        """Of a model in `dtype`."""
        width = Dtype.FP32 if self.is_float32 else dtype
        return self.num_elements * width.num_bytes


EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"
CHOICE_BIAS = "expert_bias"
"""How the name of a router's numbers that it adds where it chooses ends."""
VISION = "vision."
"""How the names of a tower's and a projector's parameters begin."""


def parameters_of_chunk(
    shape: ModelShape,
    padded_vocab_size: int,
    tensor: int,
    num_layers: int,
    *,
    experts: ExpertShare | None = None,
    dense_layers: tuple[int, ...] = (),
    is_first: bool = True,
    is_last: bool = True,
) -> tuple[Parameter, ...]:
    """Every parameter of a chunk of layers on one tensor rank, true shapes under tensor
    parallelism; the first chunk of a model begins with the embedding, the last ends with the head,
    and a tower comes after all of the first chunk. Of layers with experts `dense_layers`, counted
    from the chunk's first, have none.

    Projections and embeddings are divided over the tensor axis, norms are replicated. A tied head
    is the embedding itself where one chunk has both, else a copy of it. Order and names as
    `GPTModel.named_parameters()` gives them (megatron/core/models/gpt/gpt_model.py,
    transformer/{transformer_layer,attention,mlp}.py); a chunk counts its layers from 0.
    """
    matrix = padded_vocab_size // tensor * shape.hidden_size
    is_copied = shape.tied_embeddings and not (is_first and is_last)
    embedding = (Parameter(EMBEDDING, matrix, is_copied),) if is_first else ()
    layers = (
        parameter
        for index in range(num_layers)
        for parameter in _layer(
            shape, tensor, None if index in dense_layers else experts, f"decoder.layers.{index}"
        )
    )
    vision = _of_vision(shape) if is_first else ()
    if not is_last:
        return (*embedding, *layers, *vision)
    final_norm = Parameter("decoder.final_layernorm.weight", shape.hidden_size, is_vector=True)
    has_own_head = is_copied or not shape.tied_embeddings
    head = (Parameter(OUTPUT_LAYER, matrix, is_copied),) if has_own_head else ()
    return (*embedding, *layers, final_norm, *head, *vision)


def _of_vision(shape: ModelShape) -> tuple[Parameter, ...]:
    """Tower and projector, whole on every rank of the first stage, and frozen."""
    if shape.vision is None:
        return ()
    return tuple(
        Parameter(VISION + name, prod(size), is_vector=len(size) == 1, is_trained=False)
        for name, size in shape.vision.tensors().items()
    )


def num_elements(parameters: tuple[Parameter, ...]) -> int:
    return sum(parameter.num_elements for parameter in parameters)


def largest_elements(parameters: tuple[Parameter, ...]) -> int:
    return max((parameter.num_elements for parameter in parameters), default=0)


def _layer(
    shape: ModelShape, tensor: int, experts: ExpertShare | None, prefix: str
) -> tuple[Parameter, ...]:
    sizes = _attention_sizes(shape, tensor)
    if shape.norms != "post":
        sizes |= {"pre_mlp_layernorm.weight": shape.hidden_size}
    if experts is None:
        return _named(prefix, sizes | _mlp_sizes(shape, tensor))
    router, shared = shared_sizes(experts, shape.hidden_size, tensor)
    routed = routed_sizes(experts, shape.hidden_size)
    return (
        *_named(prefix, sizes | router),
        *_named(prefix, routed, is_divided=experts.expert > 1),
        *_named(prefix, shared),
    )


def _named(
    prefix: str, sizes: dict[str, int], *, is_divided: bool = False
) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            f"{prefix}.{name}",
            size,
            is_vector=name.endswith(("norm.weight", "bias")),
            is_trained=not name.endswith(CHOICE_BIAS),
            is_divided=is_divided,
            is_float32=name.endswith(CHOICE_BIAS),
        )
        for name, size in sizes.items()
    )


def _mlp_sizes(shape: ModelShape, tensor: int) -> dict[str, int]:
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size // tensor
    return {
        "mlp.linear_fc1.weight": 2 * ffn * hidden,
        "mlp.linear_fc2.weight": hidden * ffn,
        **_output_norm("mlp.linear_fc2", shape),
    }


def _attention_sizes(shape: ModelShape, tensor: int) -> dict[str, int]:
    hidden = shape.hidden_size
    if shape.latent is not None:
        return _latent_sizes(shape, shape.latent, tensor)
    query = shape.query_size // tensor
    qkv = (shape.query_size + 2 * shape.kv_size) // tensor
    bias = {"self_attention.linear_qkv.bias": qkv} if shape.qkv_bias else {}
    head_norms = {
        f"self_attention.{name}_layernorm.weight": size
        for name, size in zip("qk", _head_norm_sizes(shape, tensor), strict=True)
        if shape.qk_norm
    }
    input_norm = {} if shape.norms == "post" else {"input_layernorm.weight": hidden}
    return {
        **input_norm,
        "self_attention.linear_proj.weight": hidden * query,
        **_output_norm("self_attention.linear_proj", shape),
        "self_attention.linear_qkv.weight": qkv * hidden,
        **bias,
        **head_norms,
    }


def _latent_sizes(shape: ModelShape, latent: LatentShape, tensor: int) -> dict[str, int]:
    """The maps to the latents and their norms are whole on every rank, those from them divided."""
    hidden, rank = shape.hidden_size, latent.query_rank
    queries = {"linear_q_proj.weight": shape.query_size // tensor * hidden}
    if rank is not None:
        queries = {
            "linear_q_down_proj.weight": rank * hidden,
            "q_layernorm.weight": rank,
            "linear_q_up_proj.weight": shape.query_size // tensor * rank,
        }
    sizes = {
        "linear_proj.weight": hidden * (shape.context_size // tensor),
        **queries,
        "linear_kv_down_proj.weight": (latent.kv_rank + latent.rotated_size) * hidden,
        "kv_layernorm.weight": latent.kv_rank,
        "linear_kv_up_proj.weight": shape.latent_kv_size // tensor * latent.kv_rank,
    }
    attention = {f"self_attention.{name}": size for name, size in sizes.items()}
    return {"input_layernorm.weight": hidden, **attention}


def _head_norm_sizes(shape: ModelShape, tensor: int) -> tuple[int, int]:
    """Of queries and of keys: one for each head is whole on every rank, one of all heads is cut."""
    if shape.qk_norm_of_all_heads:
        return shape.query_size // tensor, shape.kv_size // tensor
    return shape.head_dim, shape.head_dim


def _output_norm(linear: str, shape: ModelShape) -> dict[str, int]:
    return {} if shape.norms == "pre" else {f"{linear}.output_norm.weight": shape.hidden_size}
