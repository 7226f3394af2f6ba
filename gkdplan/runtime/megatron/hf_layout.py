"""Where each Megatron parameter lies in a Hugging Face checkpoint, dense or with experts.

Megatron fuses q, k and v into one matrix that is interleaved by kv group (q heads of group 0, k 0,
v 0, q heads of group 1, ...), and gate and up into one that each rank holds as [gate_r; up_r].
Sharding is by rows (dim 0), but for o_proj and down_proj by columns (dim 1). The router and the
shared expert's gate are whole on every rank.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gkdplan.families.names import ExpertNames, Names
from gkdplan.families.tensors import latent_tensors, names_of
from gkdplan.shape import ModelShape

_LAYER_PARAMETER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
VISION = "vision."
"""What begins the names of the parameters of a model's tower and projector, whole on every rank."""
_EXPERT_PARAMETER = re.compile(r"mlp\.experts\.(\d+)\.(linear_fc\d)\.weight")
LATENT_NAMES = {
    f"self_attention.{part}.weight": name
    for part, name in (
        ("linear_q_proj", "q_proj"),
        ("linear_q_down_proj", "q_a_proj"),
        ("q_layernorm", "q_a_layernorm"),
        ("linear_q_up_proj", "q_b_proj"),
        ("linear_kv_down_proj", "kv_a_proj_with_mqa"),
        ("kv_layernorm", "kv_a_layernorm"),
        ("linear_kv_up_proj", "kv_b_proj"),
    )
}
OF_HEADS = tuple(
    f"self_attention.linear_{part}.weight" for part in ("q_proj", "q_up_proj", "kv_up_proj")
)
"""Those of them whose rows are heads'."""
DENSE_NAMES = ExpertNames()
"""A dense MLP's projections are called as most families' experts are."""


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
        shape, names = self.shape, names_of(self.shape)
        if parameter.startswith(VISION):
            return (self._of_vision(parameter.removeprefix(VISION)),)
        match parameter:
            case "embedding.word_embeddings.weight":
                return (self._share(f"{names.embedding}.weight", 0, self.padded_vocab_size),)
            case "output_layer.weight":
                head = names.embedding if shape.tied_embeddings else names.head
                return (self._share(f"{head}.weight", 0, self.padded_vocab_size),)
            case "decoder.final_layernorm.weight":
                return (self._whole(names.final_norm),)
        layer, part = _LAYER_PARAMETER.fullmatch(parameter).groups()
        prefix = f"{names.layers}.{layer}."
        if shape.latent is not None and (of_latents := self._of_latents(prefix, part)):
            return (of_latents,)
        match part:
            case "input_layernorm.weight" | "self_attention.linear_qkv.layer_norm_weight":
                return (self._whole(f"{prefix}{names.attention_input_norm}"),)
            case "self_attention.linear_qkv.weight" | "self_attention.linear_qkv.bias":
                return tuple(self._qkv_share(prefix, part.rpartition(".")[2]))
            case "self_attention.q_layernorm.weight":
                return (self._head_norm(f"{prefix}self_attn.q_norm.weight", shape.query_size),)
            case "self_attention.k_layernorm.weight":
                return (self._head_norm(f"{prefix}self_attn.k_norm.weight", shape.kv_size),)
            case "self_attention.linear_proj.weight":
                return (self._share(f"{prefix}self_attn.o_proj.weight", 1, shape.context_size),)
            case "self_attention.linear_proj.output_norm.weight":
                return (self._whole(f"{prefix}{names.attention_output_norm}"),)
            case "pre_mlp_layernorm.weight" | "mlp.linear_fc1.layer_norm_weight":
                return (self._whole(f"{prefix}{names.mlp_input_norm}"),)
            case "mlp.linear_fc2.output_norm.weight":
                return (self._whole(f"{prefix}{names.mlp_output_norm}"),)
            case "mlp.linear_fc1.weight" | "mlp.linear_fc2.weight":
                return self._dense_share(prefix, names, part.split(".")[1])
        return self._share_of_experts(prefix, part)

    def _of_latents(self, prefix: str, part: str) -> Slice | None:
        """What belongs to the latents of queries, keys and values: the maps to them and their norms
        are whole on every rank, those from them cut by heads."""
        if part not in LATENT_NAMES:
            return None
        tensor = f"self_attn.{LATENT_NAMES[part]}.weight"
        rows = latent_tensors(self.shape)[tensor][0]
        if part in OF_HEADS:
            return self._share(f"{prefix}{tensor}", 0, rows)
        return Slice(f"{prefix}{tensor}", 0, 0, rows)

    def _whole(self, norm: str) -> Slice:
        return Slice(f"{norm}.weight", 0, 0, self.shape.hidden_size)

    def _head_norm(self, tensor: str, size: int) -> Slice:
        """One norm for each head is the same for all of them; one of all heads is cut with them."""
        if self.shape.qk_norm_of_all_heads:
            return self._share(tensor, 0, size)
        return Slice(tensor, 0, 0, self.shape.head_dim)

    def _dense_share(self, prefix: str, names: Names, layer: str) -> tuple[Slice, ...]:
        width = self.shape.ffn_hidden_size
        if layer == "linear_fc1" and names.fused_gate_up is not None:
            gate = self._share(f"{prefix}{names.fused_gate_up}.weight", 0, width)
            return gate, replace(gate, start=width + gate.start, stop=width + gate.stop)
        return self._mlp_share(f"{prefix}mlp.", DENSE_NAMES, layer, width)

    def _of_vision(self, tensor: str) -> Slice:
        assert self.shape.vision is not None, f"no place in the checkpoint for {tensor}"
        return Slice(tensor, 0, 0, self.shape.vision.tensors()[tensor][0])

    def _share_of_experts(self, prefix: str, part: str) -> tuple[Slice, ...]:
        moe, names = self.shape.moe, names_of(self.shape).experts
        assert moe is not None, f"no place in the checkpoint for {part}"
        block = f"{prefix}{names.block}."
        if expert := _EXPERT_PARAMETER.fullmatch(part):
            one = f"{block}experts.{expert[1]}."
            return self._mlp_share(one, names, expert[2], moe.expert_ffn_hidden_size)
        match part:
            case "mlp.router.expert_bias":
                return (Slice(f"{block}{names.choice_bias}", 0, 0, moe.num_experts),)
            case "mlp.router.weight":
                return (Slice(f"{block}gate.weight", 0, 0, moe.num_experts),)
            case "mlp.shared_experts.gate_weight":
                return (Slice(f"{block}shared_expert_gate.weight", 0, 0, 1),)
            case "mlp.shared_experts.linear_fc1.weight" | "mlp.shared_experts.linear_fc2.weight":
                shared, layer = f"{block}{names.shared}.", part.split(".")[2]
                return self._mlp_share(shared, names, layer, moe.shared_ffn_hidden_size)
        raise AssertionError(f"no place in the checkpoint for {part}")

    def _mlp_share(
        self, prefix: str, names: ExpertNames, layer: str, width: int
    ) -> tuple[Slice, ...]:
        """Of fc1 or fc2 of a gated MLP that is `width` wide."""
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
        shape, fused = self.shape, names_of(self.shape).fused_qkv
        sizes = {"q": shape.query_size, "k": shape.kv_size, "v": shape.kv_size}
        places = {letter: (f"self_attn.{letter}_proj", 0) for letter in sizes}
        if fused is not None:
            starts = (0, shape.query_size, shape.query_size + shape.kv_size)
            places = {letter: (fused, start) for letter, start in zip("qkv", starts, strict=True)}
        share = sum(sizes.values()) // self.size
        first, last = self.rank * share, (self.rank + 1) * share
        row = 0
        for group in range(shape.num_kv_heads):
            for letter, size in sizes.items():
                length = size // shape.num_kv_heads
                start, stop = max(first, row), min(last, row + length)
                if start < stop:
                    tensor, offset = places[letter]
                    shift = offset + group * length - row
                    yield Slice(f"{prefix}{tensor}.{kind}", 0, start + shift, stop + shift)
                row += length
