"""Where each Megatron parameter lies in a Hugging Face checkpoint, dense or with experts.

Megatron fuses q, k and v into one matrix that is interleaved by kv group (q heads of group 0, k 0,
v 0, q heads of group 1, ...), and gate and up into one that each rank holds as [gate_r; up_r].
Sharding is by rows (dim 0), but for o_proj and down_proj by columns (dim 1). The router and the
shared expert's gate are whole on every rank.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gkdplan.shape import ModelShape
from gkdplan.tensors import expert_names

_LAYER_PARAMETER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERT_PARAMETER = re.compile(r"mlp\.experts\.(\d+)\.(linear_fc\d)\.weight")


@dataclass(frozen=True, slots=True)
class Slice:
    """The stretch [start, stop) along `dim` of one checkpoint tensor."""

    tensor: str
    dim: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TensorShard:
    """A rank's share, `rank` of `size`, of every dimension that the tensor axis splits, or for the
    parameters of experts their own tensor axis."""

    shape: ModelShape
    padded_vocab_size: int
    rank: int
    size: int

    def slices(self, parameter: str) -> tuple[Slice, ...]:
        """The slices that, joined along their common dim, are the rank's `parameter`.

        `parameter` is a name of `parameters.base_parameters`. A vocabulary slice may reach past the
        checkpoint's last row: the rows beyond it are padding.
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
            case "mlp.linear_fc1.weight" | "mlp.linear_fc2.weight":
                layer_mlp = f"{prefix}mlp."
                return self._mlp_share(layer_mlp, part.split(".")[1], shape.ffn_hidden_size)
        return self._share_of_experts(prefix, part)

    def _share_of_experts(self, prefix: str, part: str) -> tuple[Slice, ...]:
        moe, block = self.shape.moe, f"{prefix}{expert_names(self.shape.family).block}."
        assert moe is not None, f"no place in the checkpoint for {part}"
        if expert := _EXPERT_PARAMETER.fullmatch(part):
            one = f"{block}experts.{expert[1]}."
            return self._mlp_share(one, expert[2], moe.expert_ffn_hidden_size)
        match part:
            case "mlp.router.weight":
                return (Slice(f"{block}gate.weight", 0, 0, moe.num_experts),)
            case "mlp.shared_experts.gate_weight":
                return (Slice(f"{block}shared_expert_gate.weight", 0, 0, 1),)
            case "mlp.shared_experts.linear_fc1.weight" | "mlp.shared_experts.linear_fc2.weight":
                shared = f"{block}shared_expert."
                return self._mlp_share(shared, part.split(".")[2], moe.shared_ffn_hidden_size)
        raise AssertionError(f"no place in the checkpoint for {part}")

    def _mlp_share(self, prefix: str, layer: str, width: int) -> tuple[Slice, ...]:
        """Of fc1 or fc2 of a gated MLP that is `width` wide."""
        names = expert_names(self.shape.family)
        if layer == "linear_fc2":
            return (self._share(f"{prefix}{names.down}.weight", 1, width),)
        return tuple(
            self._share(f"{prefix}{name}.weight", 0, width) for name in (names.gate, names.up)
        )

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
