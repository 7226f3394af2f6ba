"""The grid on which the ledger is held to the trace: plans of real models, one axis at a time and
together. The tests run a part of it, `benchmarks/ledger_errors.py` all of it."""

from trace_grid import (
    adapters,
    attention,
    context,
    dense,
    expert_layouts,
    experts,
    latents,
    mixed_layers,
    pipelines,
    recompute,
    servers,
    teachers,
    top_k,
)
from trace_grid.plan import compile_configuration

__all__ = ["GRID", "IN_EVERY_RUN", "compile_configuration"]

GRID = {
    **dense.CONFIGURATIONS,
    **pipelines.CONFIGURATIONS,
    **recompute.CONFIGURATIONS,
    **context.CONFIGURATIONS,
    **adapters.CONFIGURATIONS,
    **experts.CONFIGURATIONS,
    **teachers.CONFIGURATIONS,
    **expert_layouts.CONFIGURATIONS,
    **mixed_layers.CONFIGURATIONS,
    **top_k.CONFIGURATIONS,
    **attention.CONFIGURATIONS,
    **latents.CONFIGURATIONS,
    **servers.CONFIGURATIONS,
}
"""Name -> arguments of `compile_configuration`."""
IN_EVERY_RUN = (
    "smol fp32 replicated",
    "llama 8B to 1B fp32 replicated logits",
    "smol fp32 pipeline 2",
    "tiny dense fp32 pipeline 2 virtual 2",
    "tiny dense bf16 context 2",
    "tiny dense of tensor 2 context 2 to bf16 pipeline 2 data 2",
    "llama 8B to 1B bf16 tensor 2 uniform 1",
    "smol bf16 lora of q and v replicated",
    "qwen2.5 1.5B to 0.5B fp32 lora tensor 2 replicated",
    "tiny experts fp32",
    "tiny experts, tensor 2 expert 2 expert tensor 2",
    "tiny dense to experts, expert 2",
    "tiny mixed pipeline 2",
    "mixtral 8x7B expert 8",
    "olmoe tensor 2 expert 4",
    "tiny experts of expert 2 to dense tensor 2",
    "mixtral 8x7B pipeline 2 expert 4 block 1",
    "qwen3 30B-A3B tensor 2 expert 8 moe and layernorm",
    "smol fp32 top 64 with sft",
    "gemma 2 2B fp32",
    "gemma 3 1B fp32 pipeline 2",
    "tiny latents fp32",
    "tiny latents tensor 2 expert 2",
    "tiny latents pipeline 2 attention again",
    "tiny latents context 2 pipeline 2 attention and norms again",
    "tiny dense behind a server, tensor 2 pipeline 2",
)
"""The rest of the grid runs with `pytest -m grid`."""
