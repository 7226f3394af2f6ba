"""Where each Megatron parameter lies in a Hugging Face checkpoint (Llama, Qwen2, Qwen3 naming).

Megatron fuses q, k and v into one matrix that is interleaved by kv group (q heads of group 0, k 0,
v 0, q heads of group 1, ...), and gate and up into one that each rank holds as [gate_r; up_r].
Sharding is by rows (dim 0), but for o_proj and down_proj by columns (dim 1).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.shape import ModelShape

_LAYER_PARAMETER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Slice:
    """The stretch [start, stop) along `dim` of one checkpoint tensor."""

    tensor: str
    dim: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TensorShard:
    """This rank's share, `rank` of `size`, of every dimension that the tensor axis splits."""

    shape: ModelShape
    padded_vocab_size: int
    rank: int
    size: int

    def slices(self, parameter: str) -> tuple[Slice, ...]:
        """The slices that, joined along their common dim, are the rank's `parameter`.

        Layers carry the model's own numbers. A vocabulary slice may reach past the checkpoint's
        last row: the rows beyond it are padding.
        """
        shape = self.shape
        match parameter:
            case "embedding.word_embeddings.weight":
                return (self._share("model.embed_tokens.weight", 0, self.padded_vocab_size),)
            case "output_layer.weight":
                head = "model.embed_tokens" if shape.tied_embeddings else "lm_head"
                return (self._share(f"{head}.weight", 0, self.padded_vocab_size),)
            case "decoder.final_layernorm.weight":
                return (Slice("model.norm.weight", 0, 0, shape.hidden_size),)
        layer, part = _LAYER_PARAMETER.fullmatch(parameter).groups()
        prefix = f"model.layers.{layer}."
        match part:
            case "input_layernorm.weight" | "self_attention.linear_qkv.layer_norm_weight":
                return (Slice(f"{prefix}input_layernorm.weight", 0, 0, shape.hidden_size),)
            case "self_attention.linear_qkv.weight" | "self_attention.linear_qkv.bias":
                return tuple(self._qkv_share(f"{prefix}self_attn.", part.rpartition(".")[2]))
            case "self_attention.q_layernorm.weight":
                return (Slice(f"{prefix}self_attn.q_norm.weight", 0, 0, shape.head_dim),)
            case "self_attention.k_layernorm.weight":
                return (Slice(f"{prefix}self_attn.k_norm.weight", 0, 0, shape.head_dim),)
            case "self_attention.linear_proj.weight":
                return (self._share(f"{prefix}self_attn.o_proj.weight", 1, shape.query_size),)
            case "pre_mlp_layernorm.weight" | "mlp.linear_fc1.layer_norm_weight":
                return (Slice(f"{prefix}post_attention_layernorm.weight", 0, 0, shape.hidden_size),)
            case "mlp.linear_fc1.weight":
                names = (f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight")
                return tuple(self._share(name, 0, shape.ffn_hidden_size) for name in names)
            case "mlp.linear_fc2.weight":
                return (self._share(f"{prefix}mlp.down_proj.weight", 1, shape.ffn_hidden_size),)
        raise AssertionError(f"no place in the checkpoint for {parameter}")

    def _share(self, tensor: str, dim: int, length: int) -> Slice:
        share = length // self.size
        return Slice(tensor, dim, self.rank * share, (self.rank + 1) * share)

    def _qkv_share(self, prefix: str, kind: str) -> Iterator[Slice]:
        """The parts of the interleaved rows that fall into the rank's share.

        A share may begin inside a group: with fewer kv heads than ranks Megatron gathers the
        projection and picks the heads afterwards.
        """
        shape = self.shape
        share = (shape.query_size + 2 * shape.kv_size) // self.size
        first, last = self.rank * share, (self.rank + 1) * share
        row = 0
        for group in range(shape.num_kv_heads):
            for letter, length in (
                ("q", shape.query_size // shape.num_kv_heads),
                ("k", shape.head_dim),
                ("v", shape.head_dim),
            ):
                start, stop = max(first, row), min(last, row + length)
                if start < stop:
                    shift = group * length - row
                    yield Slice(f"{prefix}{letter}_proj.{kind}", 0, start + shift, stop + shift)
                row += length


def tensor_shapes(shape: ModelShape, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with `num_layers` layers, by name."""
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size
    query, kv, vocab = shape.query_size, shape.kv_size, shape.vocab_size
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if shape.qkv_bias:
        layer |= {
            "self_attn.q_proj.bias": (query,),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.bias": (kv,),
        }
    if shape.qk_norm:
        layer |= {
            "self_attn.q_norm.weight": (shape.head_dim,),
            "self_attn.k_norm.weight": (shape.head_dim,),
        }
    tensors = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if not shape.tied_embeddings:
        tensors["lm_head.weight"] = (vocab, hidden)
    for index in range(num_layers):
        tensors |= {f"model.layers.{index}.{name}": size for name, size in layer.items()}
    return tensors
