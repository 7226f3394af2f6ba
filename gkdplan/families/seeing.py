"""The families that see images: a decoder behind a vision of their own."""

from gkdplan.families import llava, qwen_vl

ARCHITECTURES = {family.MODEL_TYPE: family.ARCHITECTURE for family in (llava, qwen_vl)}
"""By `model_type`."""
