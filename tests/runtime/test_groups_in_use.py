"""The groups that the ledger counts communicators for are those that collectives are seen in."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import torch.distributed as dist
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from tiny_plans import compile_tiny
from torch.utils._python_dispatch import TorchDispatchMode

from gkdplan.planner.memory.overhead import groups
from gkdplan.runplan.codec import decode, encode
from gkdplan.runtime.executor import Executor

REPLICATED = {"distributed": "false"}
CASES = [
    ("dense", 1, {}),
    ("dense", 1, REPLICATED),
    ("dense", 2, {"tensor": 2}),
    ("dense", 2, {"micro": 1, **REPLICATED}),
    ("dense", 2, {"parallel": "pipeline = 2"}),
    ("dense", 2, {"parallel": "context = 2", "teacher": "[teacher.parallel]\ntensor = 2"}),
    ("experts", 2, {"micro": 1}),
    ("experts", 2, {"tensor": 2, "parallel": "expert = 2"}),
    ("experts", 2, {"tensor": 2, "parallel": "expert_tensor = 2"}),
]


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> dict[str, Path]:
    homes = {models: tmp_path_factory.mktemp(models) for models in ("dense", "experts")}
    tiny.save_qwen3(homes["dense"] / "teacher", num_layers=4, hidden=48, seed=1)
    tiny.save_llama(homes["dense"] / "student", num_layers=4, hidden=32, seed=2)
    tiny.save_qwen3_moe(homes["experts"] / "teacher", num_layers=2, hidden=48, seed=1)
    tiny.save_qwen3_moe(homes["experts"] / "student", num_layers=2, hidden=32, seed=2)
    for home in homes.values():
        tiny.save_rows(home / "rows.jsonl")
    return homes


@pytest.mark.parametrize(("models", "num_ranks", "changes"), CASES)
def test_they_are_as_many_as_a_run_talks_in(models, num_ranks, changes, homes, tmp_path):
    sources = {"lmbda": 0.5, "seq_kd": 0.5, "steps": 2}
    run_plan = compile_tiny(homes[models], tmp_path, devices=num_ranks, **sources, **changes)
    run_on_ranks(check_groups, num_ranks, encode(run_plan))


def check_groups(lock: str) -> None:
    """Of a run with samples, held-out rows and a checkpoint, on this rank."""
    run_plan = decode(lock)
    with SeenGroups() as seen:
        Executor(open_silently(lock)).run(0)
    counted = groups(run_plan.layout, run_plan.models, run_plan.optimizer)
    assert len(seen.names) == len(counted), (seen.names, counted)


class SeenGroups(TorchDispatchMode):
    """The names of the process groups whose collectives this thread calls, and their ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, str] = {}

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if func.namespace == "c10d":
            for group in filter(None, map(_group, args)):
                ranks = dist.get_process_group_ranks(group)
                self.names[group.group_name] = f"{group.group_desc} {ranks}"
        return func(*args, **(kwargs or {}))


def _group(argument: object) -> dist.ProcessGroup | None:
    if not isinstance(argument, torch.ScriptObject):
        return None
    try:
        return dist.ProcessGroup.unbox(argument)
    except RuntimeError:
        return None
