"""Adapters as a directory that PEFT loads: adapter_config.json and adapter_model.safetensors."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from safetensors.torch import save_file
from torch import Tensor

from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.megatron.adapter_config import adapter_config, module_path, saved_modules
from gkdplan.runtime.megatron.adapters import whole_adapters
from gkdplan.runtime.megatron.hf_layout import VISION
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.packed_experts import packed_adapters
from gkdplan.runtime.megatron.parameters import base_parameters

_MODEL = "base_model.model"
"""What PEFT calls the model within its own."""


def save_adapters(chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, out_dir: Path) -> None:
    """Write `out_dir`, which must not exist yet; every rank takes part and rank 0 writes.

    A base that is not the plan's model as it is (kept layers, random weights) has no name there.

    The names are those that PEFT 0.21 gives the adapters of a causal model of transformers
    (peft/utils/save_and_load.py), and the config says what `peft.LoraConfig` needs to load them. Of
    tower and projector what learns lies beside them, whole, as PEFT's `modules_to_save`.
    """
    assert plan.lora is not None
    tensors = {}
    for name, a, b in packed_adapters(whole_adapters(chunks, plan, mesh), plan.shape):
        if mesh.rank == 0:
            stem = f"{_MODEL}.{module_path(plan.shape, name)}"
            tensors[f"{stem}.lora_A.weight"] = a.cpu().contiguous().clone()
            tensors[f"{stem}.lora_B.weight"] = b.cpu().contiguous().clone()
    if mesh.rank == 0:
        tensors |= dict(_eyes(chunks, plan, mesh))
        out_dir.mkdir(parents=True)
        save_file(tensors, out_dir / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.dumps(adapter_config(plan), indent=2, sort_keys=True)
        (out_dir / "adapter_config.json").write_text(config + "\n", encoding="utf-8")
    dist.barrier()


def _eyes(chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh) -> Iterator[tuple[str, Tensor]]:
    """The modules of tower and projector that are saved, which the first rank has whole."""
    paths = tuple(f"{path}." for path in saved_modules(plan))
    for name, parameter in base_parameters(chunks, plan, mesh):
        path = module_path(plan.shape, name.removeprefix(VISION))
        if name.startswith(VISION) and path.startswith(paths):
            yield f"{_MODEL}.{path}", parameter.detach().cpu().contiguous()
