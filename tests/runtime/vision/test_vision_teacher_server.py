"""A teacher that sees behind a real server of vLLM gives what it gives on the ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import vllm_servers
from gloo_ranks import launched_as_forks, run_on_ranks
from safetensors.torch import load_file, save_file
from sampled import sample_decided, sample_tiny
from silent_session import open_silently
from test_teacher_server import TOP_K, behind, beside
from test_vision_runs import read_rows
from test_vision_vllm import make_home, seeing_shape
from tokenizers import Tokenizer
from vllm_for_images import path_for_images

from gkdplan.cli.compiling import compile_file
from gkdplan.cli.sample import decide
from gkdplan.pictures import PictureLimits
from gkdplan.runplan.codec import encode
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.rollout.images import features
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.teacher.server import question_of
from gkdplan.runtime.teacher.server_checks import check_servers
from gkdplan.runtime.vision.images import load_eyes
from gkdplan.runtime.vision.prompted import images_of_prompt
from gkdplan.vocab import Role

NUM_ROWS = 304
CHANGES = {
    "lmbda": 0.0,
    "seq_kd": 0.5,
    "distill": "sampling_temperature = 0.0",
    "steps": 4,
    "save_interval": 4,
}
"""From the dataset and from the teacher's greedy samples."""

pytestmark = pytest.mark.timeout(600)


def test_a_question_of_images_has_their_pixels(tmp_path):
    """Where their tokens stand, on the route that takes them; one of text goes the usual way."""
    home = make_home("qwen-vl", tmp_path)
    eyes = load_eyes(home / "teacher", seeing_shape(home / "teacher"), PictureLimits())
    without, _, with_two, *_ = read_rows(home, home / "student")
    question = question_of(with_two, (5, 6))
    images = [*images_of_prompt(with_two.prompt, with_two.shown, eyes, torch.float32)]
    asked = question.asked(TOP_K, images)
    assert asked.path == "/inference/v1/generate"
    assert asked.body["token_ids"] == [*with_two.prompt, 5, 6]
    assert asked.body["features"] == features(images)
    places = asked.body["features"]["mm_placeholders"]["image"]
    runs = [asked.body["token_ids"][p["offset"] :][: p["length"]] for p in places]
    assert runs == [[eyes.shape.image_token_id] * one.num_tokens for one in with_two.shown]
    assert question_of(without, (5,)).asked(TOP_K).path == "/v1/completions"


@pytest.fixture
def served(request, tmp_path) -> Iterator[tuple[Path, str]]:
    """The models of a kind, and the address of a server of the teacher."""
    home, url = make_home(request.param, tmp_path), vllm_servers.free_url()
    for role in ("student", "teacher"):
        _name_every_row(home / role)
    if request.param == "llava":
        _name_as_released(home / "teacher")
    plan = tmp_path / "plan.toml"
    plan.write_text(behind(home, tmp_path / "run", f'url = "{url}"', **CHANGES))
    server = vllm_servers.start(plan, url, "--role", "teacher", PYTHONPATH=path_for_images())
    try:
        server.wait_until_up()
        yield home, url
    finally:
        server.end()


def _name_every_row(model: Path) -> None:
    """Of the embedding: what a row without a token takes of a distribution counts as tail behind a
    server, and not on the ranks."""
    file = str(model / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    unused = range(tokenizer.get_vocab_size(), NUM_ROWS)
    tokenizer.add_special_tokens([f"<unused {row}>" for row in unused])
    tokenizer.save(file)


def _name_as_released(llava: Path) -> None:
    """Tensors of LLaVA, whose released files vLLM knows, and not those of transformers 5."""
    file, vision = llava / "model.safetensors", seeing_shape(llava)
    tensors = {vision.canonical_name(name): tensor for name, tensor in load_file(file).items()}
    renamed = {vision.earlier_name_on_disk(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, file, metadata={"format": "pt"})


@pytest.mark.grid
@pytest.mark.parametrize("served", ["llava", "qwen-vl", "internvl", "qwen3-vl"], indirect=True)
def test_a_run_is_that_of_the_teacher_on_the_ranks(served, tmp_path):
    """Of rows with two images, one, and none; evaluated too."""
    home, url = served
    plan_file = tmp_path / "behind.toml"
    plan_file.write_text(behind(home, tmp_path / "behind", f'url = "{url}"', **CHANGES))
    plan = compile_file(str(plan_file)).require()
    check_servers(plan)
    run_on_ranks(_run, 1, encode(plan), only_once=True)
    here = {"payload": "top_k", "distill": CHANGES["distill"] + f"\ntop_k = {TOP_K}"}
    run_on_ranks(_run, 1, encode(beside(home, tmp_path / "beside", **{**CHANGES, **here})))
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("behind", "beside")]
    losses = [[line["loss"] for line in of_run if "loss" in line] for of_run in lines]
    assert {line["source"] for line in lines[0] if "loss" in line} == {"teacher", "dataset"}
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    judged = [[line["eval"] for line in of_run if "eval" in line] for of_run in lines]
    held_out = [[of_eval["cross_entropy"] for of_eval in of_run] for of_run in judged]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)
    written = [read_metrics(tmp_path / n / "completions.jsonl") for n in ("behind", "beside")]
    texts = [[(w["step"], w["row"], w["completion"]) for w in of_run] for of_run in written]
    assert texts[0] == texts[1]
    _check_samples(home, plan_file, tmp_path)


def _check_samples(home: Path, plan_file: Path, tmp_path: Path) -> None:
    """`gkdplan sample` has the servers draw what Megatron's own generation does."""
    by_server, by_megatron = tmp_path / "server.jsonl", tmp_path / "megatron.jsonl"
    with launched_as_forks():
        assert sample_decided(decide(str(plan_file), Role.TEACHER), by_server).exit_code == 0
        greedy = {"distill": CHANGES["distill"]}
        assert sample_tiny(home, by_megatron, **greedy).exit_code == 0
    assert by_server.read_text().splitlines()[1:] == by_megatron.read_text().splitlines()[1:]


def _run(lock: str) -> None:
    Executor(open_silently(lock)).run(0)
