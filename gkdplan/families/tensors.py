"""The tensors of a Hugging Face checkpoint by name and shape."""

from gkdplan.experts import MoeShape
from gkdplan.families import FAMILIES
from gkdplan.families.names import ExpertNames, Names
from gkdplan.projections import OF_EXPERTS, PROJECTIONS, parts_of
from gkdplan.shape import ModelShape

Sizes = dict[str, tuple[int, ...]]


def names_of(shape: ModelShape) -> Names:
    """What the shape's family calls its tensors."""
    return FAMILIES[shape.family].names


def projections_of(shape: ModelShape) -> tuple[str, ...]:
    """The linear maps of a layer as the family's checkpoints have them, in the order of a layer."""
    names = names_of(shape)
    if shape.latent is not None:
        own = [name.split(".")[1] for name in latent_tensors(shape) if "layernorm" not in name]
        return (*own, *OF_EXPERTS)
    fused = {
        part: path.rpartition(".")[2]
        for path in (names.fused_qkv, names.fused_gate_up)
        if path is not None
        for part in parts_of(path.rpartition(".")[2])
    }
    return tuple(dict.fromkeys(fused.get(name, name) for name in PROJECTIONS))


def expected_tensors(shape: ModelShape) -> Sizes:
    """Names and shapes of all tensors, in the order of the model.

    A projection's weight is [outputs, inputs], as torch.nn.Linear stores it.
    """
    names, hidden = names_of(shape), shape.hidden_size
    dense, with_experts = _layer(names, shape.without_experts), _layer(names, shape)
    tensors: Sizes = {f"{names.embedding}.weight": (shape.vocab_size, hidden)}
    for index in range(shape.num_layers):
        layer = dense if shape.experts_of(index) is None else with_experts
        tensors |= {f"{names.layers}.{index}.{name}": size for name, size in layer.items()}
    tensors[f"{names.final_norm}.weight"] = (hidden,)
    if not shape.tied_embeddings:
        tensors[f"{names.head}.weight"] = (shape.vocab_size, hidden)
    return tensors if shape.vision is None else tensors | shape.vision.tensors()


def _layer(names: Names, shape: ModelShape) -> Sizes:
    """A layer's without its prefix, with experts where the model has them."""
    block = _norms(names, shape.hidden_size) | _attention(names, shape)
    if shape.moe is None:
        return block | _dense_mlp(names, shape)
    return block | _expert_tensors(names.experts, shape, shape.moe)


def _norms(names: Names, hidden: int) -> Sizes:
    own = (
        names.attention_input_norm,
        names.attention_output_norm,
        names.mlp_input_norm,
        names.mlp_output_norm,
    )
    return {f"{name}.weight": (hidden,) for name in own if name is not None}


def _attention(names: Names, shape: ModelShape) -> Sizes:
    if shape.latent is not None:
        return latent_tensors(shape)
    hidden, query, kv = shape.hidden_size, shape.query_size, shape.kv_size
    rows = {
        f"self_attn.{letter}_proj": size
        for letter, size in zip("qkv", (query, kv, kv), strict=True)
    }
    if names.fused_qkv is not None:
        rows = {names.fused_qkv: query + 2 * kv}
    tensors: Sizes = {f"{name}.weight": (size, hidden) for name, size in rows.items()}
    tensors["self_attn.o_proj.weight"] = (hidden, query)
    if shape.qkv_bias:
        tensors |= {f"{name}.bias": (size,) for name, size in rows.items()}
    if shape.qk_norm:
        sizes = (query, kv) if shape.qk_norm_of_all_heads else (shape.head_dim,) * 2
        tensors |= {"self_attn.q_norm.weight": (sizes[0],), "self_attn.k_norm.weight": (sizes[1],)}
    return tensors


def latent_tensors(shape: ModelShape) -> Sizes:
    """Of a layer's attention from latents, without its prefix: the maps to the latents ("a"), their
    norms, and those from them ("b")."""
    latent, hidden = shape.latent, shape.hidden_size
    assert latent is not None, f"{shape.family} has no latents"
    rank = latent.query_rank
    queries: Sizes = {"q_proj.weight": (shape.query_size, hidden)}
    if rank is not None:
        queries = {
            "q_a_proj.weight": (rank, hidden),
            "q_a_layernorm.weight": (rank,),
            "q_b_proj.weight": (shape.query_size, rank),
        }
    tensors = {
        **queries,
        "kv_a_proj_with_mqa.weight": (latent.kv_rank + latent.rotated_size, hidden),
        "kv_a_layernorm.weight": (latent.kv_rank,),
        "kv_b_proj.weight": (shape.latent_kv_size, latent.kv_rank),
        "o_proj.weight": (hidden, shape.context_size),
    }
    return {f"self_attn.{name}": size for name, size in tensors.items()}


def _dense_mlp(names: Names, shape: ModelShape) -> Sizes:
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size
    down: Sizes = {"mlp.down_proj.weight": (hidden, ffn)}
    if names.fused_gate_up is not None:
        return {f"{names.fused_gate_up}.weight": (2 * ffn, hidden)} | down
    return {f"mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")} | down


def _expert_tensors(names: ExpertNames, shape: ModelShape, moe: MoeShape) -> Sizes:
    """Names and shapes of one layer's router, experts and shared expert, without its prefix."""
    hidden, ffn, shared = shape.hidden_size, moe.expert_ffn_hidden_size, moe.shared_ffn_hidden_size
    block = names.block
    tensors: Sizes = {f"{block}.gate.weight": (moe.num_experts, hidden)}
    if moe.routing.has_choice_bias:
        tensors[f"{block}.{names.choice_bias}"] = (moe.num_experts,)
    for index in range(moe.num_experts):
        tensors |= _gated_mlp(f"{block}.experts.{index}", names, hidden, ffn)
    if shared:
        tensors |= _gated_mlp(f"{block}.{names.shared}", names, hidden, shared)
    if moe.shared_expert_gate:
        tensors[f"{block}.shared_expert_gate.weight"] = (1, hidden)
    return tensors


def _gated_mlp(prefix: str, names: ExpertNames, hidden: int, ffn: int) -> Sizes:
    gate, up, down = (f"{prefix}.{name}.weight" for name in (names.gate, names.up, names.down))
    return {gate: (ffn, hidden), up: (ffn, hidden), down: (hidden, ffn)}
