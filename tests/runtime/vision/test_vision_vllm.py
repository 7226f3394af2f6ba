"""A real vLLM engine on the ranks samples for a student that sees: its weights and its images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import vllm_servers
from gloo_ranks import run_on_ranks
from silent_session import open_silently
from test_vision_runs import read_rows
from tiny_plans import compile_tiny, plan_text
from tiny_vision import (
    save_image,
    save_internvl,
    save_llava,
    save_qwen3_vl,
    save_qwen3_vl_moe,
    save_qwen_vl,
    save_seeing_rows,
)
from vllm_for_images import path_for_images

from gkdplan.diagnostics import UserError
from gkdplan.facts.config import read_shape
from gkdplan.pictures import PictureLimits
from gkdplan.planner.memory.engine import EngineModel, weight_bytes
from gkdplan.planner.memory.engine_vision import eye_weight_bytes
from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.generating import refit
from gkdplan.runtime.responses import completions_of_engine, of_all_ranks, sample_responses
from gkdplan.runtime.step_examples import examples_of_rank, examples_of_step
from gkdplan.runtime.vision.images import load_eyes
from gkdplan.runtime.vision.prompted import images_of_prompt
from gkdplan.vocab import Role

NUM_STEPS = 2
RUN = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "run")
VLLM = 'engine = "vllm"\ngpu_memory_utilization = 0.004'
ON_POLICY = {
    "lmbda": 1.0,
    "distill": "sampling_temperature = 0.0",
    "generation": VLLM,
    "steps": NUM_STEPS,
    "save_interval": NUM_STEPS,
}
SEEING = {"student": "freeze_projector = false\nfreeze_vision = false"}
PROJECTING = {"student": "freeze_projector = false"}
LORA = {"student": 'tuning = "lora"\n[student.lora]\nrank = 4\nalpha = 16.0'}
EYES_BESIDE_ADAPTERS = "\n".join((SEEING["student"], LORA["student"]))
APART = f"{VLLM}\ntensor = 1"
CASES = {
    "llava, whose projector learns": ("llava", PROJECTING),
    "llava, an engine on both": ("llava", {"devices": 2, "generation": f"{VLLM}\ntensor = 2"}),
    "llava with adapters": ("llava", {"devices": 2, "tensor": 2, **LORA}),
    "llava, whose eyes learn beside adapters": (
        "llava", {"devices": 2, "generation": APART, "student": EYES_BESIDE_ADAPTERS}
    ),
    "qwen2.5-vl, whose merger learns": ("qwen-vl", PROJECTING),
    "qwen2.5-vl on stages": (
        "qwen-vl", {"devices": 2, "parallel": "pipeline = 2", "generation": APART}
    ),
    "internvl, all of which learns": ("internvl", SEEING),
    "internvl's large tower": ("internvl-6b", {}),
    "internvl, an engine on both": (
        "internvl", {"devices": 2, "generation": f"{VLLM}\ntensor = 2"}
    ),
    "qwen3-vl, all of which learns": ("qwen3-vl", SEEING),
    "qwen3-vl, an engine on both": (
        "qwen3-vl", {"devices": 2, "generation": f"{VLLM}\ntensor = 2"}
    ),
    "qwen3-vl with experts, all of which learns": ("qwen3-vl-moe", SEEING),
    "qwen3-vl with experts on both": (
        "qwen3-vl-moe",
        {"devices": 2, "parallel": "expert = 2", "generation": f"{VLLM}\ntensor = 2"},
    ),
    "qwen3-vl with experts that have adapters": (
        "qwen3-vl-moe", {"devices": 2, "parallel": "expert = 2", "generation": APART, **LORA}
    ),
}  # fmt: skip
LARGE_TOWER = {"attention_bias": False, "use_qk_norm": True, "norm_type": "rms_norm"} | {
    "use_mean_pooling": False
}
EYES = ("vision_tower.", "multi_modal_projector.", "visual.")
"""How vLLM's names of their tensors begin."""
ANGLES = "cos_sin_cache"
"""And of tables of rotary angles, how it ends."""
IN_EVERY_RUN = {"llava, whose projector learns"}

pytestmark = pytest.mark.timeout(600)


def make_home(kind: str, home: Path) -> Path:
    """Decoders with heads that vLLM knows on a CPU; rows with two images, one, and none."""
    for role, seed, layers in (("teacher", 1, 4), ("student", 2, 2)):
        sizes = {"num_layers": layers, "hidden": 128, "tied": role == "student", "seed": seed}
        match kind:
            case "llava":
                save_llava(home / role, **sizes)
            case "internvl" | "internvl-6b":
                tower = LARGE_TOWER if kind == "internvl-6b" else None
                saved = save_internvl(home / role, **sizes, tower=tower)
                (saved / "processor_config.json").write_text(json.dumps({"image_seq_length": 4}))
            case "qwen-vl":
                save_qwen_vl(home / role, **sizes, sections=(4, 6, 6))
            case "qwen3-vl-moe":
                save_qwen3_vl_moe(home / role, **sizes, sections=(6, 5, 5), head_dim=32)
            case _:
                save_qwen3_vl(home / role, **sizes, sections=(6, 5, 5), head_dim=32)
    save_seeing_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize(
    "case",
    [pytest.param(n, marks=() if n in IN_EVERY_RUN else pytest.mark.grid) for n in CASES],
)
def test_after_each_update_the_engine_samples_what_the_trainer_does(case, tmp_path):
    kind, changes = CASES[case]
    run_plan = compile_tiny(make_home(kind, tmp_path), tmp_path / "run", **{**ON_POLICY, **changes})
    ranks = run_plan.layout.world_size
    lock, path = encode(run_plan), path_for_images()
    run_on_ranks(_compare_in_every_step, ranks, lock, timeout_s=500, python_path=path)


@pytest.mark.grid
@pytest.mark.parametrize("kind", ["llava", "internvl", "qwen-vl", "qwen3-vl", "qwen3-vl-moe"])
def test_a_run_writes_what_it_writes_with_megatrons_own_generation(kind, tmp_path):
    """Both from one plan but for the engine: the same responses, from weights that learnt from the
    responses before."""
    home, written = make_home(kind, tmp_path), []
    for engine in (VLLM, 'engine = "megatron"'):
        output = tmp_path / f"run-{len(written)}"
        plan = output.with_suffix(".toml")
        plan.write_text(plan_text(home, output, **{**ON_POLICY, "generation": engine}))
        environment = {**os.environ, "PYTHONPATH": path_for_images()}
        subprocess.run((*RUN, str(plan)), env=environment, check=True, timeout=300)
        lines = map(json.loads, (output / "completions.jsonl").read_text().splitlines())
        written.append(sorted((line["step"], line["row"], line["completion"]) for line in lines))
    assert len(written[0]) == 8 * NUM_STEPS
    assert written[0] == written[1]


@pytest.mark.grid
@pytest.mark.parametrize(
    ("kind", "student"),
    [
        ("llava", PROJECTING),
        ("internvl", {}),
        ("qwen-vl", SEEING),
        ("qwen3-vl", {}),
        ("qwen3-vl-moe", SEEING),
    ],
)
def test_a_server_samples_what_the_trainer_does_after_each_update(kind, student, tmp_path):
    url = vllm_servers.free_url()
    generation = f'engine = "vllm"\nmode = "server"\nserver_url = "{url}"'
    home, changes = make_home(kind, tmp_path), {**ON_POLICY, **student, "generation": generation}
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(home, tmp_path / "run", **changes))
    server = vllm_servers.start(plan, url, PYTHONPATH=path_for_images())
    try:
        server.wait_until_up()
        lock = encode(compile_tiny(home, tmp_path / "run", **changes))
        run_on_ranks(_compare_by_server, 1, lock, timeout_s=300, only_once=True)
    finally:
        server.end()


def _compare_by_server(lock: str) -> None:
    session = open_silently(lock)
    executor = Executor(session)
    for step in range(1, NUM_STEPS + 1):
        _compare(session, step)
        executor._run_step(step)
    _compare(session, NUM_STEPS + 1)
    session.engine.close()


def test_an_image_that_changed_since_the_run_began_is_named_with_its_row(tmp_path):
    home = make_home("qwen-vl", tmp_path)
    example = read_rows(home, home / "student")[2]
    eyes = load_eyes(home / "student", seeing_shape(home / "student"), PictureLimits())
    first, second = images_of_prompt(example.prompt, example.shown, eyes, torch.float32)
    assert example.prompt[first.place : first.place + first.num_tokens] == (301,) * 4
    assert second.place == first.place + first.num_tokens + 2
    assert [len(one.values) for one in (first, second)] == [4 * 4, 4 * 4]
    save_image(Path(example.shown[1].picture.path), 1, (96, 96))
    with pytest.raises(UserError) as refusal:
        list(images_of_prompt(example.prompt, example.shown, eyes, torch.float32))
    (found,) = refusal.value.diagnostics
    assert found.code == "GK485"
    assert "rows.jsonl:3` has the image" in found.message


def _compare_in_every_step(lock: str) -> None:
    eyes, decoder = _models_made()
    session = open_silently(lock)
    engine, student = session.plan.sampling.vllm, session.plan.models.student
    model = EngineModel(student.shape, student.dtype, engine.tensor)
    assert eyes == [eye_weight_bytes(model, engine)]
    assert decoder == [weight_bytes(model)]
    assert session.engine._runner.mm_budget.get_encoder_budget() == engine.encoder_tokens
    assert {len(e.shown) for e in session.train.examples} == {0, 1, 2}
    executor = Executor(session)
    for step in range(1, NUM_STEPS + 1):
        _compare(session, step)
        executor._run_step(step)
    _compare(session, NUM_STEPS + 1)


def _models_made() -> tuple[list[int], list[int]]:
    """Bytes of the tower and the projector, and of the decoder, of each model that vLLM makes from
    now on, before it packs them for a CPU. The rows in which a tower says something to layers are
    the tower's; the decoder's rotary angles, one table for all its layers, are its own."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    eyes: list[int] = []
    decoders: list[int] = []
    load_weights = DummyModelLoader.load_weights

    def noting(loader, model, config) -> None:
        weights = dict(model.named_parameters())
        of_eyes = [weights.pop(name) for name in [*weights] if name.startswith(EYES)]
        said = getattr(model, "deepstack_input_embeds", [])
        eyes.append(sum(tensor.nbytes for tensor in (*of_eyes, *said)))
        angles = [b for n, b in model.named_buffers() if ANGLES in n and not n.startswith(EYES)]
        decoders.append(sum(tensor.nbytes for tensor in (*weights.values(), *angles)))
        load_weights(loader, model, config)

    DummyModelLoader.load_weights = noting
    return eyes, decoders


def seeing_shape(student: Path):
    shape, _ = read_shape(json.loads((student / "config.json").read_text()), "config")
    return shape.vision


def _compare(session, step: int) -> None:
    """Of the engine's greedy responses and those of the ranks' own modules, of the same weights."""
    refit(session, step)
    examples = examples_of_step(session, step)
    found = completions_of_engine(session, session.engine, examples, session.plan.sampling, step)
    mine = examples_of_rank(session, step)
    greedy = sample_responses(session, Role.STUDENT, mine, session.plan.sampling, step)
    of_trainer = of_all_ranks({e.row: r for e, r in zip(mine, greedy, strict=True)})
    assert {row: completion.tokens for row, completion in found.items()} == of_trainer
    assert {completion.weights_version for completion in found.values()} == {step - 1}
