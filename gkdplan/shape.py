"""The architecture of a decoder as numbers: the noun that facts, run plan and runtime share."""

from dataclasses import dataclass, replace

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a dense layer, by the names that Hugging Face gives them."""


@dataclass(frozen=True, slots=True)
class MoeShape:
    """The experts of every layer: gated MLPs of which a router picks some for each token.

    `shared_ffn_hidden_size` is the width of an expert that sees every token, 0 where there is none;
    `shared_expert_gate` says that its output is scaled by a gate of its own. `weights_sum_to_one`
    says that the router's weights of a token's experts are scaled to that sum.
    """

    num_experts: int
    num_experts_per_token: int
    expert_ffn_hidden_size: int
    shared_ffn_hidden_size: int = 0
    shared_expert_gate: bool = False
    weights_sum_to_one: bool = True


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer (RMSNorm, rotary positions, gated SiLU MLP or experts).

    With `moe` every layer has experts in place of the MLP of `ffn_hidden_size`.

    `vocab_size` is the number of rows of the embedding in the checkpoint, which may exceed the
    tokenizer's true size. `rope_scaling` is the llama3 rule as (factor, low_freq_factor,
    high_freq_factor, original_max_position_embeddings), or None.
    """

    family: str
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    rope_theta: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    rope_scaling: tuple[float, float, float, int] | None = None
    moe: MoeShape | None = None

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def num_parameters_per_layer(self) -> int:
        """Projections, optional qkv bias and q and k norms, MLP or experts, two norms."""
        hidden, query, kv = self.hidden_size, self.query_size, self.kv_size
        attention = 2 * hidden * query + 2 * hidden * kv
        bias = query + 2 * kv if self.qkv_bias else 0
        norms = 2 * hidden + (2 * self.head_dim if self.qk_norm else 0)
        return attention + bias + norms + self._mlp_parameters

    @property
    def _mlp_parameters(self) -> int:
        """Gate, up and down; of experts also the router and the shared expert."""
        moe, hidden = self.moe, self.hidden_size
        if moe is None:
            return 3 * hidden * self.ffn_hidden_size
        routed = moe.num_experts * 3 * hidden * moe.expert_ffn_hidden_size
        shared = 3 * hidden * moe.shared_ffn_hidden_size
        gate = hidden if moe.shared_expert_gate else 0
        return moe.num_experts * hidden + routed + shared + gate

    @property
    def num_parameters(self) -> int:
        """Parameters of the checkpoint; a tied head counts once."""
        matrices = 1 if self.tied_embeddings else 2
        embeddings = matrices * self.vocab_size * self.hidden_size
        return embeddings + self.num_layers * self.num_parameters_per_layer + self.hidden_size

    def projection_size(self, name: str) -> tuple[int, int]:
        """(out, in) features of one of PROJECTIONS."""
        hidden, query, kv, ffn = (
            self.hidden_size,
            self.query_size,
            self.kv_size,
            self.ffn_hidden_size,
        )
        return {
            "q_proj": (query, hidden),
            "k_proj": (kv, hidden),
            "v_proj": (kv, hidden),
            "o_proj": (hidden, query),
            "gate_proj": (ffn, hidden),
            "up_proj": (ffn, hidden),
            "down_proj": (hidden, ffn),
        }[name]

    def with_layers(self, num_layers: int) -> "ModelShape":
        """The same shape with another depth."""
        return replace(self, num_layers=num_layers)
