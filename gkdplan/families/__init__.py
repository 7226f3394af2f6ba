"""The model families: one file each, read by the planner and by the runtime.

To add one, write its file and name it here (CONTRIBUTING.md shows how).
"""

from gkdplan.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from gkdplan.families.family import Family
from gkdplan.families.gemma import GEMMA2, GEMMA3
from gkdplan.families.glm4 import GLM, GLM4
from gkdplan.families.llama import LLAMA
from gkdplan.families.mistral import MISTRAL
from gkdplan.families.mixtral import MIXTRAL
from gkdplan.families.olmo2 import OLMO2
from gkdplan.families.olmoe import OLMOE
from gkdplan.families.phi3 import PHI3
from gkdplan.families.qwen import QWEN2_DENSE, QWEN2_MOE, QWEN3_DENSE, QWEN3_MOE
from gkdplan.families.smollm3 import SMOLLM3

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2_DENSE,
        QWEN3_DENSE,
        GEMMA2,
        GEMMA3,
        PHI3,
        SMOLLM3,
        GLM,
        GLM4,
        OLMO2,
        MIXTRAL,
        QWEN2_MOE,
        QWEN3_MOE,
        OLMOE,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
    )
}
"""By the `model_type` of a config.json."""
