"""Adapters as a directory that PEFT loads: adapter_config.json and adapter_model.safetensors."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from megatron.core.models.gpt.gpt_model import GPTModel
from safetensors.torch import save_file

from gkdplan.families.packed import packs_experts
from gkdplan.families.tensors import names_of
from gkdplan.runplan.model import LoraPlan, ModelPlan
from gkdplan.runtime.megatron.adapters import whole_adapters
from gkdplan.runtime.megatron.mesh import Mesh
from gkdplan.runtime.megatron.packed_experts import packed_adapters
from gkdplan.shape import OF_EXPERTS, ModelShape

_DECODER = "model.language_model."


def save_adapters(chunks: Sequence[GPTModel], plan: ModelPlan, mesh: Mesh, out_dir: Path) -> None:
    """Write `out_dir`, which must not exist yet; every rank takes part and rank 0 writes.

    A base that is not the plan's model as it is (kept layers, random weights) has no name there.

    The names are those that PEFT 0.21 gives the adapters of a causal model of transformers
    (peft/utils/save_and_load.py), and the config says what `peft.LoraConfig` needs to load them.
    """
    assert plan.lora is not None
    tensors = {}
    for name, a, b in packed_adapters(whole_adapters(chunks, plan, mesh), plan.shape):
        if mesh.rank == 0:
            stem = f"base_model.model.{_module_path(plan.shape, name)}"
            tensors[f"{stem}.lora_A.weight"] = a.cpu().contiguous().clone()
            tensors[f"{stem}.lora_B.weight"] = b.cpu().contiguous().clone()
    if mesh.rank == 0:
        out_dir.mkdir(parents=True)
        save_file(tensors, out_dir / "adapter_model.safetensors", metadata={"format": "pt"})
        config = json.dumps(_config(plan), indent=2, sort_keys=True)
        (out_dir / "adapter_config.json").write_text(config + "\n", encoding="utf-8")
    dist.barrier()


def _module_path(shape: ModelShape, name: str) -> str:
    """The decoder of a model that sees is a module of transformers' model."""
    return name if shape.vision is None else _DECODER + name.removeprefix("model.")


def _target_modules(shape: ModelShape, targets: Sequence[str]) -> list[str] | str:
    """Their names, or, beside a tower whose projections may have the same ones, a pattern of their
    paths."""
    names = [_module_name(shape, target) for target in targets if _is_module(shape, target)]
    if shape.vision is None or not names:
        return names
    return rf"{re.escape(_DECODER)}.*\.({'|'.join(names)})"


def _is_module(shape: ModelShape, target: str) -> bool:
    """In any layer: of experts that are packed none has one of its own."""
    is_packed = packs_experts(shape) and shape.num_dense_layers == 0
    return not (is_packed and target in OF_EXPERTS)


def _module_name(shape: ModelShape, target: str) -> str:
    """An expert's projections have the names of its family's checkpoints, from which PEFT makes
    those of transformers' experts, that are two matrices of all of them, and joins their factors
    (peft/utils/transformers_weight_conversion.py)."""
    is_of_experts = shape.moe is not None and target in OF_EXPERTS
    return names_of(shape).experts.name_of(target) if is_of_experts else target


def _target_parameters(plan: ModelPlan, lora: LoraPlan) -> dict[str, object]:
    """Of experts that are packed their matrices, of which that of gate and up has both ranks.

    Beside layers of other experts those without: PEFT takes the names of their projections for
    those of experts, whatever stands before them, and finds their weights by a path of their own.
    """
    shape, of_experts = plan.shape, [target for target in lora.targets if target in OF_EXPERTS]
    if shape.moe is None or not of_experts:
        return {}
    if not packs_experts(shape):
        paths = [f"mlp.{target}.weight" for target in of_experts] if shape.moe.dense_layers else []
        return {"target_parameters": paths} if paths else {}
    matrices = [f"mlp.experts.{_matrix_of(target)}" for target in of_experts]
    both = rf".*\.{_matrix_of('gate_proj')}"
    return {
        "target_parameters": list(dict.fromkeys(matrices)),
        "rank_pattern": {both: 2 * lora.rank},
        "alpha_pattern": {both: 2 * lora.alpha},
    }


def _matrix_of(target: str) -> str:
    """Of all experts, which holds the projection."""
    return "down_proj" if target == "down_proj" else "gate_up_proj"


def _config(plan: ModelPlan) -> dict[str, object]:
    lora = plan.lora
    assert lora is not None
    return {
        "base_model_name_or_path": plan.model if plan.init == "pretrained" else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "peft_type": "LORA",
        "r": lora.rank,
        "revision": plan.revision,
        "target_modules": _target_modules(plan.shape, lora.targets),
        "task_type": "CAUSAL_LM",
        **_target_parameters(plan, lora),
    }
