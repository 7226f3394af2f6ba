"""The experts of a model: their keys in a config.json."""

from collections.abc import Callable
from dataclasses import dataclass

from gkdplan.experts import MoeShape
from gkdplan.families.dense_layers import (
    no_dense_layers,
    no_keys_of_dense_layers,
    read_by_step,
    written_by_step,
)
from gkdplan.families.keys import Keys
from gkdplan.routing import PLAIN_ROUTING, Routing
from gkdplan.shape import ModelShape

MAX_EXPERTS = 2**14
MAX_FFN = 2**22


def plain_routing(keys: Keys) -> Routing:
    """The experts of the largest scores of a softmax."""
    return PLAIN_ROUTING


def no_keys_of_routing(routing: Routing) -> dict[str, object]:
    """For a family whose routers all choose alike."""
    return {}


@dataclass(frozen=True, slots=True)
class ExpertKeys:
    """How a family spells its experts.

    `number` is the key of how many there are; transformers 5 writes it for every family under one,
    so both spellings are read. `shared_ffn` is the key of the shared expert's width where the
    family has one, which then has a gate. Where `weights_sum_to_one` a token's do in every model of
    the family. With `num_shared`, the key of a number, the shared expert is as wide as so many, and
    has no gate. `read_routing` gives how routers choose, and `write_routing` spells it again;
    `read_dense` the layers without experts, of so many, and `write_dense` them.
    """

    ffn: str
    shared_ffn: str | None = None
    weights_sum_to_one: bool = False
    number: str = "num_experts"
    num_shared: str | None = None
    read_routing: Callable[[Keys], Routing] = plain_routing
    write_routing: Callable[[Routing], dict[str, object]] = no_keys_of_routing
    read_dense: Callable[[Keys, int], tuple[int, ...]] = no_dense_layers
    write_dense: Callable[[ModelShape], dict[str, object]] = no_keys_of_dense_layers


QWEN3 = ExpertKeys("moe_intermediate_size", read_dense=read_by_step, write_dense=written_by_step)
QWEN2 = ExpertKeys(
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    read_dense=read_by_step,
    write_dense=written_by_step,
)
MIXTRAL = ExpertKeys("intermediate_size", weights_sum_to_one=True, number="num_local_experts")
OLMOE = ExpertKeys("intermediate_size")

NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def read_experts(keys: Keys, family: ExpertKeys, num_layers: int) -> MoeShape | None:
    """The experts of the layers that have them, None where none has; findings are left in `keys`.

    GK104: more experts a token than there are, or two counts of them. Sizes have no defaults: those
    of transformers fit one model of the family only.
    """
    dense = family.read_dense(keys, num_layers)
    if len(dense) == num_layers:
        return None
    num_experts = _read_count(keys)
    ffn = keys.count(family.ffn, MAX_FFN)
    moe = MoeShape(
        num_experts=num_experts,
        num_experts_per_token=keys.count("num_experts_per_tok", MAX_EXPERTS),
        expert_ffn_hidden_size=ffn,
        shared_ffn_hidden_size=_read_shared_ffn(keys, family, ffn),
        shared_expert_gate=family.shared_ffn is not None,
        weights_sum_to_one=family.weights_sum_to_one or keys.flag("norm_topk_prob", False),
        dense_layers=dense,
        routing=family.read_routing(keys),
    )
    if not keys.findings and moe.num_experts_per_token > num_experts:
        keys.wrong(
            f"`num_experts_per_tok` = {moe.num_experts_per_token} exceeds the {num_experts} experts"
        )
    if not keys.findings:
        _check_groups(keys, moe)
    return moe


def written_experts(family: ExpertKeys, shape: ModelShape) -> dict[str, object]:
    """The same keys, of a shape."""
    dense, moe = family.write_dense(shape), shape.moe
    if moe is None:
        return dense
    shared: dict[str, object] = {}
    if family.shared_ffn is not None:
        shared = {family.shared_ffn: moe.shared_ffn_hidden_size}
    if family.num_shared is not None:
        shared = {family.num_shared: moe.shared_ffn_hidden_size // moe.expert_ffn_hidden_size}
    return {
        family.number: moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_token,
        family.ffn: moe.expert_ffn_hidden_size,
        "norm_topk_prob": moe.weights_sum_to_one,
        **shared,
        **family.write_routing(moe.routing),
        **dense,
    }


def _read_count(keys: Keys) -> int:
    """The number of experts, under either key."""
    given = [key for key in NUM_EXPERTS if keys.has(key)]
    counts = [keys.count(key, MAX_EXPERTS) for key in given or NUM_EXPERTS[:1]]
    if len(set(counts)) > 1:
        keys.wrong(f"`{given[0]}` = {counts[0]} and `{given[1]}` = {counts[1]} differ")
    return counts[0]


def _read_shared_ffn(keys: Keys, family: ExpertKeys, ffn: int) -> int:
    """0 where the family has no shared expert."""
    if family.num_shared is not None:
        return ffn * keys.count(family.num_shared, MAX_EXPERTS)
    return 0 if family.shared_ffn is None else keys.count(family.shared_ffn, MAX_FFN)


def _check_groups(keys: Keys, moe: MoeShape) -> None:
    """Groups are equal, and those of a token have its experts, and each as many as score it."""
    routing, num_experts = moe.routing, moe.num_experts
    if num_experts % routing.num_groups:
        keys.wrong(f"{num_experts} experts cannot be divided into {routing.num_groups} groups")
        return
    size, num_groups = num_experts // routing.num_groups, routing.num_groups_per_token
    if num_groups > routing.num_groups:
        keys.wrong(f"a token's {num_groups} groups exceed the {routing.num_groups} groups")
    elif moe.num_experts_per_token > num_groups * size:
        keys.wrong(
            f"`num_experts_per_tok` = {moe.num_experts_per_token} exceeds the {num_groups * size} "
            f"experts of a token's groups"
        )
    elif size < routing.num_scoring_group:
        keys.wrong(f"groups of {size} experts have no {routing.num_scoring_group} to be scored by")
