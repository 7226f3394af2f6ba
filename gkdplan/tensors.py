"""The tensors of a Hugging Face checkpoint by name and shape, for every family of facts.config."""

from dataclasses import dataclass

from gkdplan.shape import ModelShape, MoeShape


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """What a family calls its block of experts, and the gate, up and down of each."""

    block: str
    gate: str
    up: str
    down: str


def expert_names(family: str) -> ExpertNames:
    """Mixtral has names of its own; everywhere else an expert's are those of a dense layer."""
    if family == "mixtral":
        return ExpertNames("block_sparse_moe", "w1", "w3", "w2")
    return ExpertNames("mlp", "gate_proj", "up_proj", "down_proj")


def expected_tensors(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, in the order of the model.

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
        layer |= _expert_tensors(shape, shape.moe)
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


def _expert_tensors(shape: ModelShape, moe: MoeShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer's router, experts and shared expert, without its prefix."""
    hidden, ffn, shared = shape.hidden_size, moe.expert_ffn_hidden_size, moe.shared_ffn_hidden_size
    names = expert_names(shape.family)
    block = names.block
    tensors: dict[str, tuple[int, ...]] = {f"{block}.gate.weight": (moe.num_experts, hidden)}
    for index in range(moe.num_experts):
        tensors |= _gated_mlp(f"{block}.experts.{index}", names, hidden, ffn)
    if shared:
        tensors |= _gated_mlp(f"{block}.shared_expert", names, hidden, shared)
    if moe.shared_expert_gate:
        tensors[f"{block}.shared_expert_gate.weight"] = (1, hidden)
    return tensors


def _gated_mlp(
    prefix: str, names: ExpertNames, hidden: int, ffn: int
) -> dict[str, tuple[int, ...]]:
    gate, up, down = (f"{prefix}.{name}.weight" for name in (names.gate, names.up, names.down))
    return {gate: (ffn, hidden), up: (ffn, hidden), down: (hidden, ffn)}
