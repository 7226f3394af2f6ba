"""What PEFT 0.21 has to know of adapters to load them: `peft.LoraConfig` in a file."""

import re
from collections.abc import Sequence

from gkdplan.families.packed import packs_experts
from gkdplan.families.tensors import names_of
from gkdplan.projections import OF_EXPERTS
from gkdplan.runplan.models import LoraPlan, ModelPlan
from gkdplan.shape import ModelShape

_WHOLE, _DECODER = "model.", "model.language_model."
"""How paths of modules begin in a model of transformers that sees, and in its decoder."""


def adapter_config(plan: ModelPlan) -> dict[str, object]:
    """The keys of adapter_config.json."""
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
        "modules_to_save": saved_modules(plan) or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "revision": plan.revision,
        "target_modules": _target_modules(plan.shape, lora.targets),
        "task_type": "CAUSAL_LM",
        **_target_parameters(plan, lora),
    }


def module_path(shape: ModelShape, name: str) -> str:
    """That of transformers' module, or parameter, of a name of this project: the decoder of a model
    that sees is a module of it, and so are its tower and its projector."""
    if shape.vision is None:
        return name
    if name.startswith(shape.vision.prefixes):
        return _WHOLE + name
    return _DECODER + name.removeprefix("model.")


def saved_modules(plan: ModelPlan) -> list[str]:
    """Paths of the modules of tower and projector that learn, none inside another; PEFT saves no
    list of modules, but each of one."""
    vision = plan.shape.vision
    names = [] if vision is None else [*vision.tensors()]
    modules = [
        _module_at(part, name)
        for part in plan.learning_eyes
        for name in names
        if name.startswith(part)
    ]
    return [_WHOLE + module for module in dict.fromkeys(modules)]


def _module_at(part: str, name: str) -> str:
    """The module that a tensor's name is of, whose part of the name ends `part`, or is a number
    after it."""
    number = name.removeprefix(part).partition(".")[0]
    return f"{part}{number}" if number.isdecimal() else part.removesuffix(".")


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
