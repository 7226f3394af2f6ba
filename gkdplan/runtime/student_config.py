"""What a student's directory has beside its weights: its config, and the source's tokenizer."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gkdplan.families import FAMILIES
from gkdplan.families.packed import packs_experts
from gkdplan.runplan.models import ModelPlan
from gkdplan.vocab import Dtype

COPIED_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
LAYER_KEYS = (
    "layer_types",
    "max_window_layers",
    "no_rope_layers",
    "sliding_window",
    "use_sliding_window",
)
DTYPE_NAMES = {Dtype.FP32: "float32", Dtype.BF16: "bfloat16"}


def write_config(plan: ModelPlan, source_dir: Path, directory: Path) -> None:
    """Write into `directory` the source's config.json with the student's depth, its layers' types
    and its dtype, and the source's tokenizer."""
    config = student_config(plan, source_dir)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
    for file in files_beside(source_dir):
        shutil.copyfile(file, directory / file.name)


def files_beside(source_dir: Path) -> list[Path]:
    """The source's tokenizer and what prepares its inputs."""
    return [file for name in COPIED_FILES if (file := source_dir / name).exists()]


def student_config(plan: ModelPlan, source_dir: Path) -> dict[str, Any]:
    """That of the source, with the student's depth, its layers' types and its dtype; it names no
    code that lies beside the source."""
    config = json.loads((source_dir / "config.json").read_text(encoding="utf-8"))
    student = _without_dtype(config)
    student.pop("auto_map", None)
    decoder = student
    if plan.shape.vision is not None:
        student["vision_config"] = _without_dtype(student["vision_config"])
        if "text_config" in student:
            decoder = student["text_config"] = _without_dtype(student["text_config"])
    kept = plan.keep_layers
    decoder["num_hidden_layers"] = plan.shape.num_layers
    student["dtype"] = DTYPE_NAMES[plan.dtype]
    if packs_experts(plan.shape):
        decoder["norm_topk_prob"] = True  # as transformers has it, unwritten; vllm reads it
    decoder |= _of_routers(plan)
    if kept is not None:
        decoder |= _of_layers(plan, kept, decoder)
    return student


def _of_routers(plan: ModelPlan) -> dict[str, object]:
    """The keys of grouped choices, which transformers may leave unwritten, and vllm reads."""
    moe, experts = plan.shape.moe, FAMILIES[plan.family].experts
    return {} if moe is None or experts is None else experts.write_routing(moe.routing)


def _without_dtype(config: dict[str, Any]) -> dict[str, Any]:
    """That of the parts of a model that sees images follows from the whole's."""
    return {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}


def _of_layers(plan: ModelPlan, kept: Sequence[int], config: dict[str, Any]) -> dict[str, Any]:
    """The keys that say what single layers do: the source may leave a pattern to transformers that
    is another one of some of its layers."""
    family, types = FAMILIES[plan.family], config.get("layer_types")
    cut = {"layer_types": [types[index] for index in kept]} if isinstance(types, list) else {}
    written = {
        key: of
        for key, of in family.write(plan.shape).items()
        if key in LAYER_KEYS and of is not None
    }
    dense = {} if family.experts is None else family.experts.write_dense(plan.shape)
    return cut | written | dense
