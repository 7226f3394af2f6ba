"""What vLLM 0.32 is told on a CPU where keys and values come from latents."""

from typing import Any


def options_for_latents(*, has_latents: bool, on_gpu: bool) -> dict[str, Any]:
    """Positions are turned by torch: vLLM's own kernel for a CPU takes queries of three dimensions
    for one head, whose others it leaves as they are, or turns by each other's angles
    (vllm/model_executor/layers/mla.py hands them to rotary_embedding/base.py, forward_cpu). The
    attention is named, as a CPU with AMX would find another one, of other blocks
    (vllm/platforms/cpu.py)."""
    if on_gpu or not has_latents:
        return {}
    return {
        "attention_backend": "CPU_MLA",
        "compilation_config": {"custom_ops": ["-rotary_embedding"]},
    }
