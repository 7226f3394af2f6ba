"""The tensors that a shape asks for, and how those of a checkpoint differ from them."""

from collections.abc import Mapping

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.facts.experts import expert_tensors
from gkdplan.facts.safetensors import Tensor
from gkdplan.facts.text import listed
from gkdplan.shape import ModelShape

WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")


def expected_tensors(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Hugging Face checkpoint's tensors, for every family of facts.config.

    A projection's weight is [outputs, inputs], as torch.nn.Linear stores it.
    """
    hidden, query, kv = shape.hidden_size, shape.query_size, shape.kv_size
    ffn, head = shape.ffn_hidden_size, shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "post_attention_layernorm.weight": (hidden,),
    }
    if shape.moe is None:
        layer |= {f"mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
        layer["mlp.down_proj.weight"] = (hidden, ffn)
    else:
        layer |= expert_tensors(shape, shape.moe)
    if shape.qkv_bias:
        sizes = {"q": query, "k": kv, "v": kv}
        layer |= {f"self_attn.{name}_proj.bias": (size,) for name, size in sizes.items()}
    if shape.qk_norm:
        layer |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, hidden)}
    for index in range(shape.num_layers):
        tensors |= {f"model.layers.{index}.{name}": size for name, size in layer.items()}
    tensors["model.norm.weight"] = (hidden,)
    if not shape.tied_embeddings:
        tensors["lm_head.weight"] = (shape.vocab_size, hidden)
    return tensors


def compare_tensors(
    tensors: Mapping[str, Tensor], shape: ModelShape, name: str
) -> list[Diagnostic]:
    """GK107 for tensors that are missing, of another shape or dtype, or without a place.

    A second copy of a tied head and rotary frequencies, which the config determines, may be there.
    """
    expected = expected_tensors(shape)
    missing = [tensor for tensor in expected if tensor not in tensors]
    other_shape = [
        f"{tensor} {list(tensors[tensor].shape)}, not {list(size)}"
        for tensor, size in expected.items()
        if tensor in tensors and tensors[tensor].shape != size
    ]
    other_dtype = [
        f"{tensor} {row.dtype}"
        for tensor, row in tensors.items()
        if tensor in expected and row.dtype not in WEIGHT_DTYPES
    ]
    no_place = [tensor for tensor in tensors if tensor not in expected and not _is_spare(tensor)]
    rules = (
        (missing, "lacks tensors that its config.json asks for"),
        (other_shape, "holds tensors of another shape than its config.json says"),
        (other_dtype, f"holds weights of another dtype than {', '.join(WEIGHT_DTYPES)}"),
        (no_place, "holds tensors that its config.json has no place for"),
    )
    return [
        error("GK107", f"{name} {harm}: {listed(found)}", "model") for found, harm in rules if found
    ]


def _is_spare(tensor: str) -> bool:
    return tensor == "lm_head.weight" or tensor.endswith(".rotary_emb.inv_freq")
