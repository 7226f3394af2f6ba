"""The experts of a model: their keys in a config.json, and their tensors in a checkpoint."""

from dataclasses import dataclass

from gkdplan.facts.keys import Keys
from gkdplan.shape import ModelShape, MoeShape

MAX_EXPERTS = 2**14
MAX_FFN = 2**22


@dataclass(frozen=True, slots=True)
class ExpertKeys:
    """How a family spells its experts.

    transformers 5 writes the number of experts of every family under one key, so both spellings
    are read. `shared_ffn` is the key of the shared expert's width where the family has one, which
    then has a gate.
    """

    ffn: str
    shared_ffn: str | None = None


QWEN3 = ExpertKeys("moe_intermediate_size")
QWEN2 = ExpertKeys("moe_intermediate_size", "shared_expert_intermediate_size")
MIXTRAL = ExpertKeys("intermediate_size")

NUM_EXPERTS = ("num_experts", "num_local_experts")


def read_experts(keys: Keys, family: ExpertKeys) -> MoeShape:
    """The experts of every layer; findings are left in `keys`.

    GK104: more experts a token than there are, or two counts of them; GK105: layers without
    experts. Sizes have no defaults: those of transformers fit one model of the family only.
    """
    num_experts = _read_count(keys)
    moe = MoeShape(
        num_experts=num_experts,
        num_experts_per_token=keys.count("num_experts_per_tok", MAX_EXPERTS),
        expert_ffn_hidden_size=keys.count(family.ffn, MAX_FFN),
        shared_ffn_hidden_size=(
            0 if family.shared_ffn is None else keys.count(family.shared_ffn, MAX_FFN)
        ),
        shared_expert_gate=family.shared_ffn is not None,
        weights_sum_to_one=family is MIXTRAL or keys.flag("norm_topk_prob", False),
    )
    for key, only in (("decoder_sparse_step", 1), ("mlp_only_layers", [])):
        if keys.has(key) and keys.values[key] != only:
            keys.refuse(key, "every layer has experts")
    if not keys.findings and moe.num_experts_per_token > num_experts:
        keys.wrong(
            f"`num_experts_per_tok` = {moe.num_experts_per_token} exceeds the {num_experts} experts"
        )
    return moe


def expert_tensors(shape: ModelShape, moe: MoeShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer's router, experts and shared expert, without its prefix.

    Mixtral calls gate, up and down w1, w3 and w2, and its block of experts by another name.
    """
    hidden, ffn, shared = shape.hidden_size, moe.expert_ffn_hidden_size, moe.shared_ffn_hidden_size
    is_mixtral = shape.family == "mixtral"
    block = "block_sparse_moe" if is_mixtral else "mlp"
    names = ("w1", "w3", "w2") if is_mixtral else ("gate_proj", "up_proj", "down_proj")
    tensors: dict[str, tuple[int, ...]] = {f"{block}.gate.weight": (moe.num_experts, hidden)}
    for index in range(moe.num_experts):
        tensors |= _gated_mlp(f"{block}.experts.{index}", names, hidden, ffn)
    if shared:
        tensors |= _gated_mlp(f"{block}.shared_expert", names, hidden, shared)
    if moe.shared_expert_gate:
        tensors[f"{block}.shared_expert_gate.weight"] = (1, hidden)
    return tensors


def _read_count(keys: Keys) -> int:
    """The number of experts, under either key."""
    given = [key for key in NUM_EXPERTS if keys.has(key)]
    counts = [keys.count(key, MAX_EXPERTS) for key in given or NUM_EXPERTS[:1]]
    if len(set(counts)) > 1:
        keys.wrong(f"`{NUM_EXPERTS[0]}` = {counts[0]} and `{NUM_EXPERTS[1]}` = {counts[1]} differ")
    return counts[0]


def _gated_mlp(
    prefix: str, names: tuple[str, str, str], hidden: int, ffn: int
) -> dict[str, tuple[int, ...]]:
    gate, up, down = (f"{prefix}.{name}.weight" for name in names)
    return {gate: (ffn, hidden), up: (ffn, hidden), down: (hidden, ffn)}
