"""The architecture of a decoder as numbers: the noun that facts, run plan and runtime share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gkdplan.attention import PLAIN_ATTENTION, AttentionShape
from gkdplan.experts import MoeShape
from gkdplan.latent import LatentShape
from gkdplan.projections import FUSED_PROJECTIONS, parts_of
from gkdplan.rope import RopeScaling
from gkdplan.vision import VisionShape

LATENT_PROJECTIONS = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
"""Those to and from latents, where queries, keys and values come from such."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer with RMSNorm, rotary positions, and a gated MLP or
    experts.

    With `moe` layers have experts in place of the MLP of `ffn_hidden_size`, whose `activation` is
    "silu" or "gelu_tanh": all but those that it calls dense.

    `vocab_size` is the number of rows of the embedding in the checkpoint, which may exceed the
    tokenizer's true size; `scaled_embeddings` are multiplied by sqrt(hidden_size). `logit_softcap`
    c bounds logits to c tanh(logit / c).

    `norms` says where a layer has them: "pre" before attention and MLP, "post" after each, before
    the residual sum, "sandwich" in both places. `zero_centered_norms` multiply by 1 + weight.
    `qk_norm` normalises each head of queries and keys, or with `qk_norm_of_all_heads` all at once.
    With `latent` queries, keys and values come from latents, every head has keys of its own, and
    `head_dim` is the size of a query and of a key. With `vision` the decoder sees images: their
    features stand in its sequence as tokens do.
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
    rope_scaling: RopeScaling | None = None
    moe: MoeShape | None = None
    attention: AttentionShape = PLAIN_ATTENTION
    activation: str = "silu"
    norms: str = "pre"
    zero_centered_norms: bool = False
    qk_norm_of_all_heads: bool = False
    scaled_embeddings: bool = False
    logit_softcap: float | None = None
    vision: VisionShape | None = None
    latent: LatentShape | None = None

    @property
    def query_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Of the keys, and of the values but where these come from a latent."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        return self.kv_size if self.latent is None else self.context_size

    @property
    def context_size(self) -> int:
        """Of what attention gives, before its output projection."""
        if self.latent is None:
            return self.query_size
        return self.num_attention_heads * self.latent.value_dim

    @property
    def rotated_size(self) -> int:
        """Coordinates of a head that turn with the position."""
        if self.latent is None:
            return int(self.head_dim * self.attention.rotary_fraction)
        return self.latent.rotated_size

    @property
    def num_norms_per_layer(self) -> int:
        """Of the hidden size; those of queries and keys apart."""
        return 4 if self.norms == "sandwich" else 2

    @property
    def qk_norm_parameters(self) -> int:
        """Of a layer's norms of queries and keys together, or of the latents that they come
        from."""
        if self.latent is not None:
            return (self.latent.query_rank or 0) + self.latent.kv_rank
        if not self.qk_norm:
            return 0
        return self.query_size + self.kv_size if self.qk_norm_of_all_heads else 2 * self.head_dim

    @property
    def num_dense_layers(self) -> int:
        """Layers with a gated MLP: all, where there are no experts."""
        return self.num_layers if self.moe is None else len(self.moe.dense_layers)

    @property
    def without_experts(self) -> "ModelShape":
        """That of a model whose every layer is like the dense ones of this."""
        return replace(self, moe=None)

    def experts_of(self, layer: int) -> MoeShape | None:
        """Those of a layer that has some."""
        is_dense = self.moe is None or layer in self.moe.dense_layers
        return None if is_dense else self.moe

    @property
    def num_parameters_per_layer(self) -> int:
        """Projections, optional qkv bias and q and k norms, MLP or experts, norms: of a layer with
        experts where there are such, else of a dense one."""
        bias = self.query_size + 2 * self.kv_size if self.qkv_bias else 0
        norms = self.num_norms_per_layer * self.hidden_size + self.qk_norm_parameters
        return self.attention_elements + bias + norms + self._mlp_parameters

    @property
    def attention_elements(self) -> int:
        """Of the matrices of a layer's attention."""
        hidden, latent = self.hidden_size, self.latent
        output = hidden * self.context_size
        if latent is None:
            return hidden * (self.query_size + 2 * self.kv_size) + output
        queries = hidden * self.query_size
        if latent.query_rank is not None:
            queries = latent.query_rank * (hidden + self.query_size)
        down = hidden * (latent.kv_rank + latent.rotated_size)
        return queries + down + latent.kv_rank * self.latent_kv_size + output

    @property
    def latent_kv_size(self) -> int:
        """Of what the latent of keys and values is mapped to: keys but for what turns, and
        values."""
        latent = self.latent
        assert latent is not None, "keys and values come from the hidden state"
        of_a_head = self.head_dim - latent.rotated_size + latent.value_dim
        return self.num_attention_heads * of_a_head

    @property
    def _mlp_parameters(self) -> int:
        """Gate, up and down; of experts also the router and the shared expert."""
        moe, hidden = self.moe, self.hidden_size
        if moe is None:
            return 3 * hidden * self.ffn_hidden_size
        routed = moe.num_experts * 3 * hidden * moe.expert_ffn_hidden_size
        shared = 3 * hidden * moe.shared_ffn_hidden_size
        gate = hidden if moe.shared_expert_gate else 0
        bias = moe.num_experts if moe.routing.has_choice_bias else 0
        return moe.num_experts * hidden + bias + routed + shared + gate

    @property
    def num_parameters_of_layers(self) -> int:
        """Of all layers, with experts and without."""
        num_dense = self.num_dense_layers
        of_dense = num_dense * self.without_experts.num_parameters_per_layer
        return of_dense + (self.num_layers - num_dense) * self.num_parameters_per_layer

    @property
    def num_parameters(self) -> int:
        """Parameters of the checkpoint, vision included; a tied head counts once."""
        matrices = 1 if self.tied_embeddings else 2
        embeddings = matrices * self.vocab_size * self.hidden_size
        vision = 0 if self.vision is None else self.vision.num_parameters
        return embeddings + self.num_parameters_of_layers + self.hidden_size + vision

    def projection_size(self, name: str) -> tuple[int, int]:
        """(out, in) features of one of PROJECTIONS, FUSED_PROJECTIONS or LATENT_PROJECTIONS; of one
        expert's, where there are experts: `without_experts` has those of a dense layer."""
        if name in FUSED_PROJECTIONS:
            sizes = [self.projection_size(part) for part in parts_of(name)]
            return sum(rows for rows, _ in sizes), sizes[0][1]
        if name in LATENT_PROJECTIONS:
            return self._latent_projection_size(name)
        hidden, query, kv, ffn = (
            self.hidden_size,
            self.query_size,
            self.kv_size,
            self.ffn_hidden_size if self.moe is None else self.moe.expert_ffn_hidden_size,
        )
        return {
            "q_proj": (query, hidden),
            "k_proj": (kv, hidden),
            "v_proj": (kv, hidden),
            "o_proj": (hidden, self.context_size),
            "gate_proj": (ffn, hidden),
            "up_proj": (ffn, hidden),
            "down_proj": (hidden, ffn),
        }[name]

    def _latent_projection_size(self, name: str) -> tuple[int, int]:
        latent = self.latent
        assert latent is not None, f"{self.family} has no {name}"
        if name == "kv_a_proj_with_mqa":
            return latent.kv_rank + latent.rotated_size, self.hidden_size
        if name == "kv_b_proj":
            return self.latent_kv_size, latent.kv_rank
        assert latent.query_rank is not None, "queries have no latent"
        of_queries = {
            "q_a_proj": (latent.query_rank, self.hidden_size),
            "q_b_proj": (self.query_size, latent.query_rank),
        }
        return of_queries[name]

    def keeping(self, layers: Sequence[int]) -> "ModelShape":
        """The shape of a model that is made of these layers, in this order."""
        return replace(
            self,
            num_layers=len(layers),
            attention=self.attention.keeping(layers),
            moe=self.moe and self.moe.keeping(layers),
        )

    def with_layers(self, num_layers: int) -> "ModelShape":
        """The shape of a model that is made of the first layers."""
        return self.keeping(range(num_layers))
