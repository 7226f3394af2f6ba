"""What a family calls the tensors of its checkpoints."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """A layer's block of experts, the gate, up and down of each, and in the block the expert that
    sees every token and the numbers that a router adds where it chooses."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    shared: str = "shared_expert"
    choice_bias: str = "gate.e_score_correction_bias"

    def name_of(self, projection: str) -> str:
        """What the family calls an expert's "gate_proj", "up_proj" or "down_proj"."""
        return {"gate_proj": self.gate, "up_proj": self.up, "down_proj": self.down}[projection]


@dataclass(frozen=True, slots=True)
class Names:
    """Paths of weights, without `.weight`, of a layer below `layers.N`.

    A norm that is None the family does not have. With `fused_qkv` the projections of queries, keys
    and values lie one below the other in that matrix, with `fused_gate_up` gate and up in that one.
    """

    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    attention_input_norm: str | None = "input_layernorm"
    attention_output_norm: str | None = None
    mlp_input_norm: str | None = "post_attention_layernorm"
    mlp_output_norm: str | None = None
    fused_qkv: str | None = None
    fused_gate_up: str | None = None
    experts: ExpertNames = ExpertNames()


LLAMA_NAMES = Names()
