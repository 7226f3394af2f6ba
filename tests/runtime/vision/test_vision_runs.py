"""A student that sees learns from a teacher that sees: against the textbook, and in whole runs."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import hf_reference
import pytest
import torch
from gloo_ranks import launched_as_forks, run_on_ranks
from one_step import learn_once
from safetensors.torch import load_file, save_file
from silent_session import open_silently
from tiny_plans import compile_tiny
from tiny_vision import (
    load_reference,
    reference_inputs,
    save_image,
    save_internvl,
    save_llava,
    save_qwen3_vl,
    save_qwen3_vl_moe,
    save_qwen_vl,
    save_seeing_rows,
)

from gkdplan.facts.config import read_shape
from gkdplan.pictures import PictureLimits
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import DataPlan, DataSource, RunPlan
from gkdplan.runplan.models import Freeze
from gkdplan.runtime.data.chat import Chat, load_chat
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.examples import Example, Split, load_examples
from gkdplan.runtime.launch import run
from gkdplan.runtime.megatron.full_tensors import full_tensors
from gkdplan.runtime.megatron.gradients import full_gradients
from gkdplan.runtime.responses import sample_responses
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.runtime.session import Session
from gkdplan.runtime.vision.images import load_eyes
from gkdplan.vision import VisionShape, canonical_name
from gkdplan.vocab import Phase, Role

LAYOUTS = {
    "one process": {},
    "tensor 2 with sequence": {"devices": 2, "tensor": 2},
    "pipeline 2": {"devices": 2, "parallel": "pipeline = 2"},
    "data 2": {"devices": 2},
    "context 2": {"devices": 2, "parallel": "context = 2"},
    "a teacher of its own layout, on the host": {
        "devices": 2,
        "offload": "cpu",
        "teacher": "[teacher.parallel]\ntensor = 2",
    },
}
INTERLEAVED = {
    "interleaved": {"devices": 2, "parallel": "pipeline = 2\nvirtual_pipeline = 2", "micro": 1}
}
MIX = {"lmbda": 0.4, "seq_kd": 0.5, "distributed": "false"}
"""All three sources are seen in the steps that a test runs."""
IN_FLOAT64 = {"dtype": torch.float64, "attn_implementation": "eager"}
PLAN = {"generation": 'engine = "none"', "distributed": "false"}

KINDS = (
    "llava",
    "qwen-vl",
    pytest.param("internvl", marks=pytest.mark.grid),
    pytest.param("qwen3-vl", marks=pytest.mark.grid),
)
"""The runs of InternVL and Qwen3-VL are in the grid."""

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(request.param, tmp_path_factory.mktemp(request.param))


def make_home(kind: str, home: Path, num_layers: int = 2) -> Path:
    """A teacher with another tower and decoder than the student of `num_layers`, and rows with two
    images, one, and none."""
    teacher = {"num_layers": 4, "hidden": 48, "tower_hidden": 24, "seed": 1}
    student = {"num_layers": num_layers, "seed": 2}
    if kind == "llava":
        save_llava(home / "teacher", **teacher)
        save_llava(home / "student", **student)
    elif kind == "internvl":
        save_internvl(home / "teacher", **teacher, tower_layers=3)
        save_internvl(home / "student", **student, tied=True)
    elif kind in ("qwen3-vl", "qwen3-vl-moe"):
        save = save_qwen3_vl if kind == "qwen3-vl" else save_qwen3_vl_moe
        save(home / "teacher", **teacher, tower_layers=2, deep_layers=(0, 1))
        save(home / "student", **student, deep_layers=(1,), tied=kind == "qwen3-vl")
    else:
        save_qwen_vl(home / "teacher", **teacher, tower_layers=2, sections=(2, 2, 2))
        save_qwen_vl(home / "student", **student, tied=True)
    save_seeing_rows(home / "rows.jsonl")
    return home


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_equal_float64_on_one_process(layout, home, tmp_path):
    run_plan = compile_tiny(home, tmp_path / "run", **PLAN, **LAYOUTS[layout])
    run_on_ranks(check_step, run_plan.layout.world_size, encode(run_plan))


LEARNING_EYES = "freeze_vision = false\nfreeze_projector = false"
TOWER_ALONE = "freeze_vision = false"
EYES_ALONE = LEARNING_EYES + "\nfreeze_language = true"
WITH_SEQUENCE = "tensor 2 with sequence"


@pytest.mark.parametrize(
    "layout",
    [
        WITH_SEQUENCE,
        *(pytest.param(name, marks=pytest.mark.grid) for name in LAYOUTS if name != WITH_SEQUENCE),
    ],
)
def test_a_tower_that_learns_has_the_gradients_of_float64(layout, home, tmp_path):
    _check_learning(home, tmp_path, layout, LEARNING_EYES)


@pytest.mark.parametrize(
    "layout",
    [
        *(pytest.param(name, marks=pytest.mark.grid) for name in LAYOUTS if name != "context 2"),
        "context 2",
    ],
)
def test_eyes_that_learn_alone_have_the_gradients_of_float64(layout, home, tmp_path):
    _check_learning(home, tmp_path, layout, EYES_ALONE)


@pytest.mark.grid
def test_a_tower_learns_behind_a_projector_that_does_not(home, tmp_path):
    _check_learning(home, tmp_path, WITH_SEQUENCE, TOWER_ALONE)


@pytest.mark.parametrize(
    "kind", ["llava", *(pytest.param(k, marks=pytest.mark.grid) for k in ("qwen-vl", "internvl"))]
)
def test_a_tower_that_learns_on_interleaved_stages(kind, tmp_path):
    _check_learning(make_home(kind, tmp_path, 4), tmp_path, "interleaved", LEARNING_EYES)


def test_what_a_tower_says_to_layers_is_learnt_over_a_tensor_axis(tmp_path):
    """In every run, of what the grid has in all layouts."""
    _check_learning(make_home("qwen3-vl", tmp_path), tmp_path, WITH_SEQUENCE, LEARNING_EYES)


RECOMPUTE = """granularity = "full"
method = "{method}"
num_layers = {num_layers}"""
MADE_AGAIN = [
    ("qwen3-vl", LEARNING_EYES, "uniform", 1, {"devices": 2, "tensor": 2}),
    ("qwen3-vl", "", "uniform", 2, {}),
    ("qwen3-vl", "", "block", 1, {"devices": 2, "tensor": 2}),
    ("qwen3-vl", LEARNING_EYES, "block", 1, {}),
    ("qwen3-vl", EYES_ALONE, "uniform", 1, {"devices": 2, "parallel": "context = 2"}),
    ("qwen3-vl", LEARNING_EYES, "uniform", 1, {"devices": 2, "parallel": "pipeline = 2"}),
    ("qwen3-vl-moe", LEARNING_EYES, "uniform", 1, {"devices": 2, "parallel": "expert = 2"}),
]


@pytest.mark.parametrize(
    ("kind", "student", "method", "num_layers", "layout"),
    [MADE_AGAIN[0], *(pytest.param(*case, marks=pytest.mark.grid) for case in MADE_AGAIN[1:])],
)
def test_layers_that_are_made_again_hear_the_tower_again(
    kind, student, method, num_layers, layout, tmp_path
):
    recompute = RECOMPUTE.format(method=method, num_layers=num_layers)
    changes = {**PLAN, **layout, "recompute": recompute, "student": student}
    run_plan = compile_tiny(make_home(kind, tmp_path), tmp_path / "run", **changes)
    run_on_ranks(check_step, run_plan.layout.world_size, encode(run_plan))


def _check_learning(home: Path, tmp_path: Path, layout: str, student: str) -> None:
    changes = {**PLAN, **(LAYOUTS | INTERLEAVED)[layout], "student": student}
    run_plan = compile_tiny(home, tmp_path / "run", **changes)
    run_on_ranks(check_step, run_plan.layout.world_size, encode(run_plan))


@pytest.mark.parametrize("layout", ["tensor 2 with sequence", "pipeline 2", "context 2"])
def test_a_projector_that_learns_has_the_gradients_of_float64(layout, home, tmp_path):
    _check_learning(home, tmp_path, layout, "freeze_projector = false")


def test_internvl_and_its_projector_learn_on_two_stages(tmp_path):
    """In every run, of what the grid has in all layouts."""
    home = make_home("internvl", tmp_path)
    _check_learning(home, tmp_path, "pipeline 2", "freeze_projector = false")


def check_step(lock: str) -> None:
    session = open_silently(lock)
    assert {len(e.shown) for e in session.train.examples} == {0, 1, 2}
    _check_resident(session)
    state = learn_once(session, 0.5, 1.0)
    loss, gradients = _textbook(session)
    freeze, vision = session.plan.models.student.freeze, session.plan.models.student.shape.vision
    expected = {name: g for name, g in gradients.items() if learns(name, freeze, vision)}
    assert expected
    assert abs(state.loss - loss) <= 1e-5 * loss
    found = dict(full_gradients(session.trainer, session.plan.models.student, session.mesh))
    learnt = {name: found[name] for name in found if learns(name, freeze, vision)}
    assert learnt.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in learnt.items():
        error = (gradient.double() - expected[name]).norm()
        assert error <= 1e-5 * expected[name].norm() + 1e-8 * largest, f"{name} is off by {error}"


def learns(name: str, freeze: Freeze, vision: VisionShape) -> bool:
    """Also a key's bias, whose gradient is nothing: a softmax does not see it."""
    if not name.startswith(vision.prefixes):
        return not freeze.language
    is_frozen = freeze.projector if name.startswith(vision.projector) else freeze.vision
    return not is_frozen and vision.is_read(name)


def _check_resident(session: Session) -> None:
    """Parameters and gradients weigh what the ledger says, to the byte."""
    rank = session.mesh.rank
    (mine,) = (
        of_class.phases[Phase.STUDENT].rows
        for of_class in session.plan.ledger.classes
        if any(start <= rank < end for start, end in of_class.ranks)
    )
    parameters = [p for chunk in session.student for p in chunk.parameters()]
    assert sum(p.nbytes for p in parameters) == mine["student params"]
    assert sum(g.nbytes for g in session.trainer.gradients()) == mine.get("student grads", 0)


def _textbook(session: Session) -> tuple[float, dict[str, torch.Tensor]]:
    """Each row by itself, with its own pictures, by transformers in float64."""
    plan = session.plan
    student = load_reference(plan.models.student.model, **IN_FLOAT64)
    loss = textbook_loss(plan, session.train.examples, student)
    loss.backward()
    vision = plan.models.student.shape.vision
    grads = {
        _canonical(name, vision): parameter.grad for name, parameter in student.named_parameters()
    }
    apart = {
        name: gradient
        for packed, of_all in grads.items()
        if of_all is not None
        for name, gradient in _apart(packed, of_all)
    }
    return float(loss.detach()), apart


def textbook_loss(
    plan: RunPlan, examples: Sequence[Example], student: torch.nn.Module
) -> torch.Tensor:
    """Of the rows, each by itself with its own pictures, beside the plan's teacher in float64."""
    teacher = load_reference(plan.models.teacher.model, **IN_FLOAT64)
    num_tokens = sum(len(example.response) for example in examples)
    loss = torch.zeros((), dtype=torch.float64)
    for example in examples:
        inputs = _inputs(plan, example, (*example.prompt, *example.response))
        predicting = slice(len(example.prompt) - 1, -1)
        q = student(**inputs).logits[0, predicting, : plan.models.vocab_size].softmax(-1)
        with torch.no_grad():
            p = teacher(**inputs).logits[0, predicting, : plan.models.vocab_size].softmax(-1)
        loss = loss + hf_reference.generalized_jsd(p, q, 0.5).sum() / num_tokens
    return loss


def _apart(name: str, gradient: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Of experts that transformers packs, each one's."""
    prefix, is_packed, projection = name.partition(".mlp.experts.")
    if not is_packed:
        yield name, gradient
        return
    for expert, of_one in enumerate(gradient):
        names = ["gate_proj", "up_proj"] if projection == "gate_up_proj" else ["down_proj"]
        for own, part in zip(names, of_one.chunk(len(names)), strict=True):
            yield f"{prefix}.mlp.experts.{expert}.{own}.weight", part


def _canonical(name: str, vision: VisionShape) -> str:
    """As in this project, of a name within transformers' module."""
    of_vision = name.removeprefix("model.")
    if of_vision.startswith(vision.prefixes):
        return of_vision
    return name.replace("model.language_model.", "model.")


def _inputs(plan: RunPlan, example: Example, tokens: Sequence[int]) -> dict[str, torch.Tensor]:
    student, pictures = plan.models.student, [one.picture.path for one in example.shown]
    image_token = student.shape.vision.image_token_id
    return reference_inputs(student.model, tokens, pictures, image_token)


GREEDY = {"one process": {}, "tensor 2 with sequence": {}, "pipeline 2": {}}


@pytest.mark.parametrize("layout", GREEDY)
def test_greedy_samples_are_those_of_transformers(layout, home, tmp_path):
    """Of rows with and without images, all in one forward of their prompts."""
    run_plan = compile_tiny(home, tmp_path / "run", **MIX, **LAYOUTS[layout])
    run_on_ranks(check_greedy, run_plan.layout.world_size, encode(run_plan))


def check_greedy(lock: str) -> None:
    session = open_silently(lock)
    greedy = replace(session.plan.sampling, temperature=0.0)
    examples = session.train.examples
    for role in Role:
        model = getattr(session.plan.models, role).model
        reference = load_reference(model, dtype=torch.float64)
        sampled = sample_responses(session, role, examples, greedy, step=1)
        for example, tokens in zip(examples, sampled, strict=True):
            expected = _likeliest(reference, session.plan, session.chat, example)
            assert list(tokens) == expected, example.location


def _likeliest(reference, plan: RunPlan, chat: Chat, example: Example) -> list[int]:
    """What transformers writes."""
    written = reference.generate(
        **_inputs(plan, example, example.prompt),
        do_sample=False,
        max_new_tokens=plan.sampling.max_completion_length,
        eos_token_id=[*chat.stop_ids],
        pad_token_id=0,
        suppress_tokens=[*range(plan.models.vocab_size, 304)],
    )
    return written[0, len(example.prompt) :].tolist()


@pytest.fixture
def forks() -> Iterator[None]:
    with launched_as_forks():
        yield


def test_a_run_teaches_and_saves_a_student_that_sees(home, tmp_path, forks):
    """On two stages, from the samples of both models and the dataset; the tower is as it was."""
    stages = {"devices": 2, "parallel": "pipeline = 2"}
    run_plan = compile_tiny(
        home, tmp_path / "run", **MIX, **stages, steps=6, run="eval_samples = 3"
    )
    result = run(run_plan)
    assert result.exit_code == 0, result.diagnostics
    steps = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    assert {line["source"] for line in steps} == {"student", "teacher", "dataset"}
    before, after = (result.summary[f"held_out_{when}"] for when in ("before", "after"))
    assert after["jsd"] < 0.95 * before["jsd"]
    vision = run_plan.models.student.shape.vision
    saved = load_file(result.student_dir / "model.safetensors")
    source = load_file(home / "student" / "model.safetensors")
    assert saved.keys() == source.keys()
    for name in saved:
        is_of_vision = canonical_name(vision, name).startswith(vision.prefixes)
        assert torch.equal(saved[name], source[name]) == is_of_vision, name
    load_reference(result.student_dir)
    _check_answers(run_plan, result.run_dir)


def _check_answers(run_plan: RunPlan, run_dir: Path) -> None:
    """To held-out prompts with no, one and two images, before the first step and after the last."""
    answers = read_metrics(run_dir / "answers.jsonl")
    assert [(line["step"], line["row"]) for line in answers] == [
        (step, row) for step in (0, 6) for row in range(3)
    ]
    student = Path(run_plan.models.student.model)
    chat = chat_of_plan(run_plan, student, student)
    reference = load_reference(student, dtype=torch.float64)
    examples = load_examples(Split(run_plan.data.eval, run_plan.data, 12), chat).examples
    for line, example in zip(answers[:3], examples, strict=False):
        expected = _likeliest(reference, run_plan, chat, example)
        assert line["answer"] == chat.decode(expected)


@pytest.mark.parametrize("layout", ["one process", "pipeline 2"])
def test_a_run_of_rows_as_long_as_planned_needs_what_the_ledger_says(layout, home, tmp_path, forks):
    ratios = measured_peaks(home, tmp_path, **PLAN, **LAYOUTS[layout])
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


def test_a_projector_that_learns_needs_what_the_ledger_says(home, tmp_path, forks):
    changes = {**PLAN, **LAYOUTS["pipeline 2"], "student": "freeze_projector = false"}
    ratios = measured_peaks(home, tmp_path, **changes)
    assert ratios == pytest.approx(dict.fromkeys(ratios, 1.0), rel=0.1)


def test_sampling_from_images_needs_what_the_ledger_says(home, tmp_path, forks):
    ratios = measured_peaks(home, tmp_path, lmbda=1.0)
    assert ratios["generate"] == pytest.approx(1.0, rel=0.1)


def measured_peaks(home: Path, tmp_path: Path, **changes) -> dict[str, float]:
    """Of each phase of a later step the measured peak over the planned one, where every prompt is
    as long as planned and shows two images, of nearly all its tokens where their size counts."""
    rows = tmp_path / "home"
    rows.mkdir()
    for name in ("student", "teacher"):
        shutil.copytree(home / name, rows / name)
        _let_images_fill_a_prompt(rows / name)
    pictures = [str(save_image(rows / f"{seed}.png", seed, (96, 96))) for seed in range(2)]
    content = [*({"type": "image", "image": p} for p in pictures), {"type": "text", "text": "say"}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a blue sky"}]
    (rows / "rows.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 8)
    (example, *_) = read_rows(rows, rows / "student")
    lengths = {"prompt": len(example.prompt), "completion": len(example.response)}
    result = run(compile_tiny(rows, tmp_path / "run", **lengths, **changes, steps=2))
    assert result.exit_code == 0, result.diagnostics
    steps = [line for line in read_metrics(result.run_dir / "metrics.jsonl") if "loss" in line]
    measured, planned = steps[-1]["peak_bytes"], steps[-1]["planned_peak_bytes"]
    return {phase: measured[phase] / planned[phase] for phase in measured}


def _let_images_fill_a_prompt(directory: Path) -> None:
    """Where they are cut into tiles, into many."""
    path = directory / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    if "max_patches" in settings:
        path.write_text(json.dumps({**settings, "max_patches": 36}))


def read_rows(rows: Path, student: Path):
    """As a run of the rows reads them."""
    text = (rows / "rows.jsonl").read_bytes()
    source = DataSource(str(rows / "rows.jsonl"), None, 8, sha256(text).hexdigest())
    data = DataPlan((source,), (), 512, "error", False)
    shape, _ = read_shape(json.loads((student / "config.json").read_text()), "config")
    chat = load_chat(student, load_eyes(student, shape.vision, PictureLimits()))
    return load_examples(Split((source,), data, 64), chat).examples


def test_a_corrupt_image_is_named_with_its_row(home, tmp_path, forks):
    """Its header is good, and the data it promises are not there."""
    rows = tmp_path / "home"
    rows.mkdir()
    for name in ("student", "teacher"):
        (rows / name).symlink_to(home / name)
    save_seeing_rows(rows / "rows.jsonl")
    picture = rows / "rows-1-0.png"
    picture.write_bytes(picture.read_bytes()[:200])
    run_plan = compile_tiny(rows, tmp_path / "run", **PLAN)
    result = run(run_plan)
    assert result.exit_code == 1
    (found,) = [d for d in result.diagnostics if d.code == "GK485"]
    assert f"{rows}/rows.jsonl:2" in found.message
    assert "rows-1-0.png" in found.message


@pytest.mark.parametrize(
    "layout", [pytest.param("tensor 2 with sequence", marks=pytest.mark.grid), "pipeline 2"]
)
def test_random_eyes_are_the_same_in_every_layout(layout, home, tmp_path):
    """And learn: norms and scales of layers begin where transformers' do, the rest is drawn."""
    random, drawn = PLAN | {"student": 'init = "random"\n' + LEARNING_EYES}, []
    for number, name in enumerate(("one process", layout)):
        output = tmp_path / str(number)
        run_plan = compile_tiny(home, output, **random, **LAYOUTS[name])
        run_on_ranks(_keep_drawn, run_plan.layout.world_size, encode(run_plan), str(output))
        drawn.append(load_file(output / "drawn"))
    first, second = drawn
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    vision = run_plan.models.student.shape.vision
    for name, size in vision.tensors().items():
        tensor = first[name]
        if ".lambda_" in name:
            assert (tensor == 0.1).all(), name
        elif len(size) == 1 and name.endswith(("weight", "bias")):
            assert (tensor == float(name.endswith("weight"))).all(), name
        elif tensor.numel() > 200:
            assert 0.015 < float(tensor.std()) < 0.025, name


def _keep_drawn(lock: str, output: str) -> None:
    session = open_silently(lock)
    model = session.plan.models.student
    whole = full_tensors(session.student, model, session.mesh)
    tensors = {name: tensor.clone() for name, tensor in whole}
    if session.mesh.rank == 0:
        save_file(tensors, f"{output}/drawn")
    state = learn_once(session, 0.5, 1.0)
    assert torch.isfinite(torch.tensor(state.loss))
    gradients = dict(full_gradients(session.trainer, model, session.mesh))
    assert any(name.startswith(model.shape.vision.prefixes) for name in gradients)
