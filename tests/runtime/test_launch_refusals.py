"""What is planned and cannot be run yet is refused before a process starts, by the plan's keys."""

import sys
from dataclasses import replace

import pytest
import torch

from gkdplan.diagnostics import Diagnostic, UserError
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runtime.machine import kernels, vllm_package
from gkdplan.runtime.machine.lacking import check_machine
from gkdplan.vision import ClipVision
from gkdplan.vocab import Engine, Kernels, LossBackend


def refused(run_plan: RunPlan) -> list[str | None]:
    with pytest.raises(UserError) as refusal:
        check_machine(run_plan)
    assert {found.code for found in refusal.value.diagnostics} == {"GK591"}
    return [found.path for found in refusal.value.diagnostics]


def test_what_this_executor_runs_is_not_refused(run_plan):
    check_machine(run_plan)


def test_an_engine_that_is_not_installed_is_found_before_a_rank_starts(run_plan, monkeypatch):
    engine = VllmPlan(1, 0.5, 0, 144, 8, 1152, 0, 128, 64, 2**20)
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, vllm=engine)
    check_machine(replace(run_plan, sampling=sampling))
    monkeypatch.setattr(vllm_package, "find_spec", lambda name: None)
    with pytest.raises(UserError) as refusal:
        check_machine(replace(run_plan, sampling=sampling))
    assert [found.code for found in refusal.value.diagnostics] == ["GK527"]


def test_what_an_engine_that_sees_imports_is_found_before_a_rank_starts(run_plan, monkeypatch):
    engine = VllmPlan(1, 0.5, 0, 144, 8, 1152, 0, 128, 64, 2**20)
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, vllm=engine)
    student = run_plan.models.student
    clip = ClipVision(16, 2, 2, 20, 16, 4, "gelu", 1e-5, 512, 7, -2, False, True)
    seeing = replace(student, shape=replace(student.shape, vision=clip))
    models = replace(run_plan.models, student=seeing)
    monkeypatch.setattr(vllm_package, "find_spec", lambda name: name != "torchvision" or None)
    check_machine(replace(run_plan, sampling=sampling))
    with pytest.raises(UserError) as refusal:
        check_machine(replace(run_plan, sampling=sampling, models=models))
    (found,) = refusal.value.diagnostics
    assert found.code == "GK527"
    assert "`torchvision`" in found.message


def test_who_asks_a_server_with_images_needs_vllm_and_no_torchvision(run_plan, monkeypatch):
    sampling = replace(run_plan.sampling, server_urls=("http://h:1",), refit_bucket_bytes=2**20)
    student = run_plan.models.student
    clip = ClipVision(16, 2, 2, 20, 16, 4, "gelu", 1e-5, 512, 7, -2, False, True)
    seeing = replace(student, shape=replace(student.shape, vision=clip))
    models = replace(run_plan.models, student=seeing)
    asking = replace(run_plan, sampling=sampling, models=models)
    monkeypatch.setattr(vllm_package, "find_spec", lambda name: name != "torchvision" or None)
    check_machine(asking)
    monkeypatch.setattr(vllm_package, "find_spec", lambda name: None)
    check_machine(replace(run_plan, sampling=sampling))
    with pytest.raises(UserError) as refusal:
        check_machine(asking)
    assert [found.code for found in refusal.value.diagnostics] == ["GK527"]


def test_everything_comes_at_once(run_plan):
    several = on_gpus(run_plan, Kernels.TORCH, context=2)
    layout = replace(several.layout, teacher=several.layout.student)
    both = ["student.parallel.context", "teacher.parallel.context"]
    assert refused(replace(several, layout=layout)) == both


def on_gpus(run_plan: RunPlan, kernels: Kernels, context: int = 1) -> RunPlan:
    layout = run_plan.layout
    student = replace(layout.student, tensor=2 // context, context=context)
    layout = replace(
        layout,
        device="h100-80gb",
        backend="nccl",
        kernels=kernels,
        student=student,
        teacher=layout.student,
    )
    return replace(run_plan, layout=layout)


@pytest.fixture
def a_machine_with(monkeypatch):
    """A mock of CUDA: the number of GPUs, of 80 GiB or what is said of each, and whether
    Transformer Engine is installed."""

    def stand_in(num_gpus: int, has_transformer_engine: bool, sizes: tuple[int, ...] = ()) -> None:
        bytes_of = sizes or (80 * 2**30,) * num_gpus
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (bytes_of[i], bytes_of[i]))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"gpu {i}")
        found = object() if has_transformer_engine else None
        monkeypatch.setattr(kernels, "find_spec", {"transformer_engine": found}.get)

    return stand_in


def missing(run_plan: RunPlan) -> tuple[Diagnostic, ...]:
    with pytest.raises(UserError) as refusal:
        check_machine(run_plan)
    return refusal.value.diagnostics


def test_kernels_that_are_not_installed_are_missed_with_both_ways_out(run_plan, a_machine_with):
    a_machine_with(num_gpus=8, has_transformer_engine=False)
    (found,) = missing(on_gpus(run_plan, Kernels.TRANSFORMER_ENGINE))
    assert (found.code, found.path) == ("GK525", "cluster.kernels")
    ways_out = " ".join(found.help)
    assert 'cluster.kernels = "torch"' in ways_out
    assert "pip install" in ways_out
    assert "transformer-engine" in ways_out


def test_a_gpu_that_is_too_small_for_a_rank_is_named(run_plan, a_machine_with):
    planned = on_gpus(run_plan, Kernels.TORCH)
    assert planned.layout.devices_per_node == 2
    peak = planned.ledger.peak_bytes
    a_machine_with(num_gpus=2, has_transformer_engine=False, sizes=(peak, peak - 1))
    (found,) = missing(planned)
    assert (found.code, found.path) == ("GK589", "cluster.device")
    assert "gpu 1 has" in found.message
    a_machine_with(num_gpus=3, has_transformer_engine=False, sizes=(peak, peak, 1))
    check_machine(planned)


def test_a_machine_without_both_is_told_both(run_plan, a_machine_with):
    a_machine_with(num_gpus=0, has_transformer_engine=False)
    codes = [found.code for found in missing(on_gpus(run_plan, Kernels.TRANSFORMER_ENGINE))]
    assert codes == ["GK515", "GK525"]


def test_kernels_that_are_there_or_not_asked_for_are_not_missed(run_plan, a_machine_with):
    a_machine_with(num_gpus=8, has_transformer_engine=True)
    check_machine(on_gpus(run_plan, Kernels.TRANSFORMER_ENGINE))
    check_machine(on_gpus(run_plan, Kernels.TRANSFORMER_ENGINE, context=2))
    a_machine_with(num_gpus=8, has_transformer_engine=False)
    check_machine(on_gpus(run_plan, Kernels.TORCH))


def test_torch_kernels_of_a_gpu_share_no_sequence_over_ranks(run_plan, a_machine_with):
    a_machine_with(num_gpus=8, has_transformer_engine=False)
    split = on_gpus(run_plan, Kernels.TORCH, context=2)
    assert refused(split) == ["student.parallel.context"]


def test_a_compiled_loss_without_a_compiler_is_missed(run_plan, monkeypatch):
    objective = replace(run_plan.objective, loss_backend=LossBackend.COMPILED)
    compiled = replace(run_plan, objective=objective)
    monkeypatch.setenv("CXX", "no-such-compiler")
    (found,) = missing(compiled)
    assert (found.code, found.path) == ("GK526", "distill.loss_backend")
    assert "no-such-compiler" in found.message
    monkeypatch.setenv("CXX", sys.executable)
    check_machine(compiled)
