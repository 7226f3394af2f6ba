"""Phi-3 and Phi-4, mini and medium."""

from gkdplan.families.family import Family
from gkdplan.families.mistral import MISTRAL
from gkdplan.families.names import Names

PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    required=(),
    rotates_part=True,
    only={
        "resid_pdrop": (0, "nothing is dropped"),
        "embd_pdrop": (0, "nothing is dropped"),
    },
    names=Names(fused_qkv="self_attn.qkv_proj", fused_gate_up="mlp.gate_up_proj"),
    read=MISTRAL.read,
    write=MISTRAL.write,
)
