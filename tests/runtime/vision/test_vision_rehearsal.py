"""What `gkdplan verify` runs of models that see: small ones with all parts of the large ones, and
a judgement that sees what is broken on purpose."""

from pathlib import Path
from unittest.mock import patch

import pytest
from gloo_ranks import run_on_ranks
from test_rehearsal import _nothing, _rehearse, compiled, small_plans
from tiny_vision import load_reference

from gkdplan.runplan.codec import encode
from gkdplan.runplan.rehearsal import Claim
from gkdplan.runtime.data.chat_of_plan import chat_of_plan
from gkdplan.runtime.data.examples import Split, load_examples
from gkdplan.runtime.rehearsal.launch import judge
from gkdplan.runtime.rehearsal.worker import ALONE

GRID = pytest.mark.grid
PAIRS = {
    "llava": ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf"),
    "qwen2.5-vl": ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "qwen3-vl": ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    "qwen3-vl with experts": ("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-30B-A3B-Instruct"),
    "internvl": ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3-2B-hf"),
}
LEARNING = "freeze_vision = false\nfreeze_projector = false\n"
LAYOUTS = {
    "tensor 2": "parallel = { tensor = 2 }",
    "pipeline 2": "parallel = { pipeline = 2 }",
    "context 2": "parallel = { context = 2 }",
}

pytestmark = pytest.mark.timeout(600)


def of_pair(name: str, home: Path, student: str):
    learner, teacher = PAIRS[name]
    return compiled(home, nodes=2, student=learner, teacher=teacher, student_parallel=student)


@pytest.mark.parametrize("name", PAIRS)
def test_a_small_model_is_one_of_transformers_with_the_large_ones_parts(name, tmp_path):
    large = of_pair(name, tmp_path, LEARNING + LAYOUTS["pipeline 2"])
    small = small_plans(large, tmp_path)[Claim.LAYOUT]
    for role in ("student", "teacher"):
        model, whole = (getattr(p.models, role) for p in (small, large.decided()))
        assert type(model.shape.vision) is type(whole.shape.vision)
        assert model.shape.num_parameters < 2**20
        _, found = load_reference(Path(model.model), output_loading_info=True)
        assert not any(found[keys] for keys in ("missing_keys", "unexpected_keys"))
    assert small.models.student.freeze == large.decided().models.student.freeze
    directories = (Path(small.models.student.model), Path(small.models.teacher.model))
    chat = chat_of_plan(small, *directories)
    examples = load_examples(Split(small.data.train, small.data, 12), chat).examples
    assert {len(e.shown) for e in examples} == {0, 1, 2}
    assert max(len(e.prompt) for e in examples) <= small.data.max_length


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(n, la, marks=() if (n, la) == ("llava", "pipeline 2") else GRID)
        for n in PAIRS
        for la in LAYOUTS
    ],
)
def test_the_step_of_a_layout_is_that_of_one_process(name, layout, tmp_path):
    _verify(name, LEARNING + LAYOUTS[layout], tmp_path, _nothing, set())


@GRID
@pytest.mark.parametrize("eyes", ["", LEARNING])
def test_adapters_beside_eyes_are_held_against_one_process(eyes, tmp_path):
    adapters = "tuning = 'lora'\nlora = { rank = 4, dropout = 0.1 }\n"
    _verify("qwen3-vl", eyes + adapters + LAYOUTS["tensor 2"], tmp_path, _nothing, set())


def _leave_what_a_tower_says_partial() -> None:
    from gkdplan.runtime.megatron import said

    patch.object(said, "copy_to_tensor_model_parallel_region", lambda x, **_: x).start()


@pytest.mark.parametrize("eyes", [LEARNING, pytest.param("", marks=GRID)])
def test_it_misses_what_is_lost_of_a_towers_gradients(eyes, tmp_path):
    """Of Qwen3-VL's on the tensor axis; a tower that stays as it is has none to lose."""
    missed = {(Claim.LAYOUT, "gradient"), (Claim.SPLIT, "gradient")} if eyes else set()
    student = eyes + LAYOUTS["tensor 2"]
    _verify("qwen3-vl", student, tmp_path, _leave_what_a_tower_says_partial, missed)


def _verify(name: str, student: str, home: Path, breaking, missed: set) -> None:
    plans = small_plans(of_pair(name, home, student), home)
    num_ranks = plans[Claim.LAYOUT].layout.world_size
    locks = {name: encode(plan) for name, plan in plans.items()}
    run_on_ranks(_rehearse, 1, {ALONE: locks.pop(ALONE)}, home, _nothing)
    run_on_ranks(_rehearse, num_ranks, locks, home, breaking)
    checks = judge(home)
    assert {(c.claim, c.what) for c in checks if not c.holds} == missed, checks
