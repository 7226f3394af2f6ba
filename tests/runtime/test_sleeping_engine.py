"""An engine that sleeps as the schedule says; vLLM's LLM, which sleeps on GPUs only, is a mock."""

from functools import partial
from typing import Any

import pytest
import torch
from tiny_plans import compile_tiny, make_home

from gkdplan.runplan.steps import Move, Refit
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout import colocated
from gkdplan.vocab import Dtype

GPU = {"cluster": 'device = "h100-80gb"\nkernels = "torch"', "lmbda": 1.0}


class MockLLM:
    """Writes down how it is put to sleep and woken."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(("wake", *tags))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("level", [1, 2])
def test_weights_wake_for_the_refit_and_the_cache_for_the_sampling(
    level, home, tmp_path, monkeypatch
):
    generation = f'engine = "vllm"\nsleep_level = {level}'
    run_plan = compile_tiny(home, tmp_path / "run", generation=generation, **GPU)
    llm = MockLLM()
    monkeypatch.setattr(colocated, "_start", lambda *_: llm)
    assert run_plan.sampling.vllm is not None
    engine = colocated.ColocatedEngine(
        run_plan.sampling.vllm,
        {},
        dtype=Dtype.BF16,
        seed=1,
        names=(),
        vocab_size=300,
        num_rows=304,
        stop_ids=(2,),
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
    )
    residency = Residency(torch.device("cpu"), LiveBytes(torch.device("cpu")))
    for name in (colocated.WEIGHTS, colocated.KV_CACHE):
        residency.leave_to(name, partial(engine.apply, name))
    for step in run_plan.steps:
        if isinstance(step, Move):
            residency.apply(step)
        elif isinstance(step, Refit):
            llm.calls.append(("refit",))
    assert llm.calls == [
        ("sleep", level),
        ("wake", "weights"),
        ("refit",),
        ("wake", "kv_cache"),
        ("sleep", level),
    ]
