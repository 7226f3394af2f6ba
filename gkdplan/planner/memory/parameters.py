"""The parameter tensors of one rank, in the order in which megatron-core registers them."""

from dataclasses import dataclass

from gkdplan.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of a rank's shard."""

    name: str
    num_elements: int


EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT_LAYER = "output_layer.weight"


def parameters_of_rank(
    shape: ModelShape, padded_vocab_size: int, tensor: int
) -> tuple[Parameter, ...]:
    """Every parameter of one tensor rank, true shapes under tensor parallelism.

    Projections and embeddings are divided over the tensor axis, norms are replicated. A tied head
    is the embedding itself. Order and names as `GPTModel.named_parameters()` gives them
    (megatron/core/models/gpt/gpt_model.py, transformer/{transformer_layer,attention,mlp}.py).
    """
    matrix = Parameter(EMBEDDING, padded_vocab_size // tensor * shape.hidden_size)
    layers = (
        parameter
        for index in range(shape.num_layers)
        for parameter in _layer(shape, tensor, f"decoder.layers.{index}")
    )
    final_norm = Parameter("decoder.final_layernorm.weight", shape.hidden_size)
    head = () if shape.tied_embeddings else (Parameter(OUTPUT_LAYER, matrix.num_elements),)
    return (matrix, *layers, final_norm, *head)


def num_elements(parameters: tuple[Parameter, ...]) -> int:
    return sum(parameter.num_elements for parameter in parameters)


def largest_elements(parameters: tuple[Parameter, ...]) -> int:
    return max(parameter.num_elements for parameter in parameters)


def _layer(shape: ModelShape, tensor: int, prefix: str) -> tuple[Parameter, ...]:
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size // tensor
    query = shape.query_size // tensor
    qkv = (shape.query_size + 2 * shape.kv_size) // tensor
    bias = {"self_attention.linear_qkv.bias": qkv} if shape.qkv_bias else {}
    head_norms = (
        {
            "self_attention.q_layernorm.weight": shape.head_dim,
            "self_attention.k_layernorm.weight": shape.head_dim,
        }
        if shape.qk_norm
        else {}
    )
    sizes = {
        "input_layernorm.weight": hidden,
        "self_attention.linear_proj.weight": hidden * query,
        "self_attention.linear_qkv.weight": qkv * hidden,
        **bias,
        **head_norms,
        "pre_mlp_layernorm.weight": hidden,
        "mlp.linear_fc1.weight": 2 * ffn * hidden,
        "mlp.linear_fc2.weight": hidden * ffn,
    }
    return tuple(Parameter(f"{prefix}.{name}", size) for name, size in sizes.items())
