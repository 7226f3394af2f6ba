"""No key is ignored: another value is another run plan, or a finding that names it.

The other end is held too: what a run plan decides, the runtime reads.
"""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from planner_facts import TINY, data_file, facts, plan

import gkdplan
from gkdplan.planner.compiler import compile_plan
from gkdplan.runplan import model, models
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.sampling import Sampling
from gkdplan.spec.toml_words import format_path
from gkdplan.spec.vocabulary import plan_schema

CONTEXT: dict[str, dict[str, Any]] = {
    "cluster.kernels": {"cluster": {"device": "h100-80gb"}},
    "student.parallel.sequence": {
        "cluster": {"devices_per_node": 2},
        "student": {"parallel": {"tensor": 2}},
    },
    "student.keep": {"student": {"init": "layers", "keep": {"layers": (0,)}}},
    "student.lora": {"student": {"tuning": "lora"}},
    "student.recompute.granularity": {},
    "student.recompute.modules": {"student": {"recompute": {"granularity": "selective"}}},
    "student.recompute": {
        "student": {"recompute": {"granularity": "full", "method": "uniform", "num_layers": 1}}
    },
    "teacher.parallel": {"cluster": {"devices_per_node": 2}, "teacher": {"parallel": {}}},
    "student.parallel": {"cluster": {"devices_per_node": 2}},
    "teacher.decay": {"teacher": {"model": None, "self": "ema"}},
    "teacher.server.urls": {"teacher": {"server": {"column": "domain"}}},
    "teacher.server.column": {"teacher": {"server": {"urls": {"maths": "http://host"}}}},
    "teacher.server": {"teacher": {"server": {"url": "http://host"}}},
    "distill.payload": {"distill": {"top_k": 8}},
    "distill.top_k": {"distill": {"payload": "top_k", "top_k": 8}},
    "generation.mode": {"generation": {"engine": "vllm", "server_url": "http://host"}},
    "generation.server_url": {"generation": {"engine": "vllm", "mode": "server"}},
    "generation.server_": {
        "generation": {"engine": "vllm", "mode": "server", "server_url": "http://host"}
    },
    "generation.staleness": {
        "generation": {"engine": "vllm", "mode": "server", "server_url": "http://host"}
    },
    "generation.gpu_memory_utilization": {"generation": {"engine": "vllm"}},
    "optimizer.distributed": {"cluster": {"devices_per_node": 2}},
}
"""What else a plan says where a table or key is read."""
VALUES: dict[str, Any] = {
    "name": "other",
    "cluster.memory_limit": "3 GiB",
    "data.max_image_bytes": "3 MiB",
    "data.image_hosts": ("images.example.org",),
    "batch.micro": 4,
    "student.parallel.sequence": False,
    "student.keep.layers": (0, 1),
    "student.parallel.stage_layers": (1, 1),
    "teacher.parallel.stage_layers": (1, 1),
    "data.truncation": "left",
    "student.dtype": "bf16",
    "teacher.dtype": "bf16",
    "optimizer.min_lr": 1e-7,
    "optimizer.betas": (0.8, 0.9),
    "run.loggers": ("tensorboard",),
    "generation.top_p": 0.5,
    "data.weights": (2.0,),
    "generation.server_url": ("http://host", "http://other"),
    "distill.temperature": 0.5,
}
"""Values of the keys for which `_another` has no valid one."""
LOOKED_UP = {"cluster.device", "data.train", "data.eval", "optimizer.name"}
"""Their values are facts, or there is only one."""
BESIDE_THE_RUNTIME = {
    "family",  # the shape says it all
    "num_parameters",
    "num_rows",
    "recompute",  # "none" in this version, as the axes are 1
    "stage_layers",
    "prefetch",  # the steps carry what became of it
    "pipeline",
    "virtual_pipeline",
    "context",
    "expert",
    "expert_tensor",
    "server_url",  # of a teacher: as it is not yet run
    "refit_bucket_bytes",
    "vllm",
    "save_interval",  # the steps carry these
    "eval_interval",
    "eval_samples",
}


def _leaves(table: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Dotted key -> its schema."""
    found = {}
    for key, node in table["properties"].items():
        if "properties" in node:
            found |= _leaves(node, (*path, key))
        else:
            found[format_path((*path, key))] = node
    return found


KEYS = {key: node for key, node in _leaves(plan_schema()).items() if key not in LOOKED_UP}


@pytest.mark.parametrize("key", KEYS)
def test_another_value_changes_the_run_plan_or_is_named(key: str) -> None:
    base = next((tables for start, tables in CONTEXT.items() if key.startswith(start)), {})
    value = VALUES[key] if key in VALUES else _another(KEYS[key])
    before, after = _compile(base), _compile(_with(base, key, value))
    if after.run_plan is None:
        errors = [finding for finding in after.diagnostics if finding.severity == "error"]
        assert any(found.code == "GK590" or _is_about(key, found.path) for found in errors)
        return
    new_findings = set(after.diagnostics) - set(before.diagnostics)
    named = any(_is_about(key, finding.path) for finding in new_findings)
    assert named or after.run_plan != before.run_plan


def _is_about(key: str, path: str | None) -> bool:
    """Whether a finding's path is the key, a table around it or an element of it."""
    return path is not None and (key.startswith(path) or path.startswith(f"{key}["))


def test_what_is_decided_is_read() -> None:
    """A field of the run plan that nothing in the runtime mentions decides nothing."""
    room = Path(gkdplan.__file__).parent / "runtime"
    source = "\n".join(path.read_text() for path in room.rglob("*.py"))
    nouns = (
        models.ModelPlan,
        models.Models,
        AxisDegrees,
        model.Objective,
        Sampling,
        model.DataSource,
        model.DataPlan,
        model.BatchPlan,
        model.OptimizerPlan,
        model.Training,
    )
    names = {field.name for noun in nouns for field in fields(noun)}
    unread = {name for name in names if not re.search(rf"\.{name}\b", source)}
    assert unread <= BESIDE_THE_RUNTIME


def _another(node: dict[str, Any]) -> Any:
    """A valid value that is not the default."""
    default = node.get("default")
    match node:
        case {"enum": choices}:
            return next(choice for choice in reversed(choices) if choice != default)
        case {"anyOf": _}:
            return 0.25
        case {"type": "boolean"}:
            return not default
        case {"type": "integer"}:
            return min((default or node.get("minimum", 0)) + 1, node.get("maximum", 10**9))
        case {"type": "number"}:
            return 0.75 if default != 0.75 else 0.5
        case {"type": "array"}:
            return ("other",)
        case {"type": "object"}:
            return {"other": "http://other"}
    return "other"


def _with(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The tables with one more key."""
    first, _, rest = key.partition(".")
    return {**base, first: _with(base.get(first, {}), rest, value) if rest else value}


def _compile(tables: dict[str, Any]) -> Any:
    held_out = data_file(8, path="held_out.jsonl", fingerprint="cd" * 32)
    name = tables.get("name", "test")
    chosen = plan(**{table: keys for table, keys in tables.items() if table != "name"})
    chosen = chosen.model_copy(update={"name": name})
    shape = replace(TINY, head_dim=32)  # which vllm knows on a cpu
    return compile_plan(
        chosen, facts(shape, shape, chosen.cluster.device, eval=(held_out,)), "test"
    )
