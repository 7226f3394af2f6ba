"""Mixtral."""

from gkdplan.families.experts import MIXTRAL as MIXTRAL_EXPERTS
from gkdplan.families.family import Family
from gkdplan.families.mistral import MISTRAL
from gkdplan.families.names import ExpertNames, Names

MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    names=Names(experts=ExpertNames("block_sparse_moe", "w1", "w3", "w2")),
    experts=MIXTRAL_EXPERTS,
    read=MISTRAL.read,
    write=MISTRAL.write,
)
