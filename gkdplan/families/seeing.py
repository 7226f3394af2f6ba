"""The families that see images: a decoder behind a vision of their own."""

from gkdplan.families import internvl, llava, qwen3_vl, qwen3_vl_moe, qwen_vl

READERS = {
    family.MODEL_TYPE: family for family in (llava, qwen_vl, qwen3_vl, qwen3_vl_moe, internvl)
}
"""By `model_type`."""
ARCHITECTURES = {name: family.ARCHITECTURE for name, family in READERS.items()}
