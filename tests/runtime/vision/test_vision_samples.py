"""`gkdplan sample` of models that see, and a run that takes a teacher's samples of a file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import image_host
import pytest
import torch
from gloo_ranks import launched_as_forks, run_on_ranks
from one_step import learn_once
from sampled import compile_taking, sample_tiny
from silent_session import open_silently
from test_vision_runs import LAYOUTS, _likeliest, make_home
from test_vision_vllm import VLLM
from test_vision_vllm import make_home as make_home_for_vllm
from tiny_plans import compile_tiny, plan_text
from tiny_vision import load_reference, save_image
from vllm_for_images import path_for_images

from gkdplan.runplan.codec import encode
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.examples import Example, Split, load_examples
from gkdplan.runtime.launch import run
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.samples import manifest_of
from gkdplan.vocab import Role

GRID = pytest.mark.grid
GREEDY = {"distill": "sampling_temperature = 0.0"}
RAGGED = {"rows": 6, "micro": 1}
"""The second batch has two rows, for two data ranks or one."""
KINDS = ("llava", "qwen-vl", "internvl", "qwen3-vl", "qwen3-vl-moe")
SAMPLE = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "sample")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


@pytest.mark.parametrize("role", [Role.TEACHER, pytest.param(Role.STUDENT, marks=GRID)])
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("qwen-vl", "one process"),
        *(pytest.param(kind, "one process", marks=GRID) for kind in KINDS if kind != "qwen-vl"),
        *(
            pytest.param(kind, layout, marks=GRID)
            for kind in ("llava", "qwen-vl")
            for layout in ("tensor 2 with sequence", "pipeline 2", "data 2")
        ),
    ],
)
def test_greedy_samples_are_what_transformers_writes(kind, layout, role, tmp_path):
    """To rows with two images, one, and none."""
    home, file = make_home(kind, tmp_path), tmp_path / "greedy.jsonl"
    assert sample_tiny(home, file, role, **GREEDY, **RAGGED, **LAYOUTS[layout]).exit_code == 0
    run_plan, examples = read_examples(home, tmp_path)
    chat = chat_of_plan(run_plan, home / "student", home / "teacher")
    reference = load_reference(home / str(role), dtype=torch.float64)
    first, *samples = map(json.loads, file.read_text().splitlines())
    assert manifest_of(first).version == 2
    for example, found in zip(examples, samples, strict=True):
        assert found["response"] == _likeliest(reference, run_plan, chat, example)
        assert found["prompt_sha256"] == _by_hand(example)
    assert {len(example.shown) for example in examples} == {0, 1, 2}


def read_examples(home: Path, tmp_path: Path):
    run_plan = compile_tiny(home, tmp_path / "run")
    chat = chat_of_plan(run_plan, home / "student", home / "teacher")
    return run_plan, load_examples(Split(run_plan.data.train, run_plan.data, 12), chat).examples


def _by_hand(example: Example) -> str:
    """As docs/sampling.md says."""
    files = (Path(one.picture.path).read_bytes() for one in example.shown)
    digests = "".join(f";{sha256(file).hexdigest()}" for file in files)
    return sha256((",".join(map(str, example.prompt)) + digests).encode()).hexdigest()


@GRID
@pytest.mark.parametrize(
    ("kind", "role"),
    [("llava", Role.STUDENT), *((kind, Role.TEACHER) for kind in KINDS if kind != "qwen3-vl-moe")],
)
def test_vllm_draws_what_megatrons_own_generation_does(kind, role, tmp_path):
    """Of the teacher's pixels in its own tower, also where the student's is another."""
    home = make_home_for_vllm(kind, tmp_path)
    by_vllm, by_megatron = tmp_path / "vllm.jsonl", tmp_path / "megatron.jsonl"
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text(home, tmp_path / "run", **GREEDY, generation=VLLM))
    environment = {**os.environ, "PYTHONPATH": path_for_images()}
    command = (*SAMPLE, str(plan), "--source", str(role), "-o", str(by_vllm))
    subprocess.run(command, env=environment, check=True, timeout=300)
    assert sample_tiny(home, by_megatron, role, **GREEDY).exit_code == 0
    assert by_vllm.read_text().splitlines()[1:] == by_megatron.read_text().splitlines()[1:]


def responses_in(file: Path) -> dict[int, list[int]]:
    samples = map(json.loads, file.read_text().splitlines()[1:])
    return {sample["row"]: sample["response"] for sample in samples}


@pytest.mark.parametrize("kind", ["llava", pytest.param("qwen3-vl", marks=GRID)])
def test_a_run_takes_the_samples_of_its_images_and_of_no_others(kind, tmp_path):
    """Another picture of the same size, in a row whose file the second rank reads."""
    home, file = make_home(kind, tmp_path), tmp_path / "drawn.jsonl"
    assert sample_tiny(home, file).exit_code == 0
    taking = {"devices": 2, "distributed": "false", "steps": 2}
    result = run(compile_taking(home, file, tmp_path / "run", **taking))
    assert result.exit_code == 0, result.diagnostics
    steps = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    assert [line["source"] for line in steps] == ["teacher"] * 2
    assert [line["num_tokens"] for line in steps] == [
        sum(map(len, responses_in(file).values()))
    ] * 2
    save_image(home / "rows-1-0.png", seed=99, size=(40, 18))
    result = run(compile_taking(home, file, tmp_path / "other", **taking))
    (found,) = result.diagnostics
    assert (result.exit_code, found.code, found.path) == (1, "GK561", "teacher.samples")
    assert f"the row at `{home}/rows.jsonl:2` has a sample that answers another" in found.message


@GRID
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_learns_from_exactly_the_files_tokens(kind, tmp_path):
    home, file = make_home(kind, tmp_path), tmp_path / "drawn.jsonl"
    assert sample_tiny(home, file).exit_code == 0
    plan = compile_taking(home, file, tmp_path / "run", devices=2, distributed="false")
    run_on_ranks(_learn, 2, encode(plan), str(file))


def _learn(lock: str, file: str) -> None:
    session, sampled = open_silently(lock), responses_in(Path(file))
    state = learn_once(session, beta=0.5, temperature=1.0)
    learnt = {e.row: list(r) for e, r in zip(state.examples, state.responses, strict=True)}
    assert learnt == {row: sampled[row] for row in learnt}
    assert len(learnt) == 4


@GRID
def test_samples_of_images_at_addresses_are_those_of_their_files(tmp_path):
    """By two ranks, the first of which fetches; a run takes the samples, with copies of its own."""
    home, near, far = (
        make_home("qwen-vl", tmp_path),
        tmp_path / "near.jsonl",
        tmp_path / "far.jsonl",
    )
    assert sample_tiny(home, near).exit_code == 0
    with image_host.image_host() as host:
        text = (home / "rows.jsonl").read_text()
        for path in home.glob("rows-*.png"):
            host.answers[f"/{path.name}"] = image_host.image(path.read_bytes())
            text = text.replace(str(path), host.url(f"/{path.name}"))
        (home / "rows.jsonl").write_text(text)
        held_out = {"held_out": f'[]\nimage_hosts = ["{host.site}"]'}
        assert sample_tiny(home, far, devices=2, **held_out).exit_code == 0
        assert far.read_text().splitlines()[1:] == near.read_text().splitlines()[1:]
        plan = compile_taking(home, far, tmp_path / "run", steps=1, **held_out)
        assert run(plan).exit_code == 0
