"""The teacher's samples in a file: each difference from the plan, and a plan that takes them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from planner_facts import TINY, data_file, facts, model_facts, plan, tokenizer

from gkdplan import samples as words
from gkdplan.facts.model import Facts, SamplesFile
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.samples import manifest_of_plan, sampling_plan
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.steps import Draw, Generate, TakeSamples
from gkdplan.samples import Manifest, manifest_of, manifest_record
from gkdplan.vocab import Dtype, Engine, Phase, Role, Source

TEACHER = {"model": "teacher", "samples": "drawn.jsonl"}
TAKING = {"teacher": TEACHER, "distill": {"lmbda": 0.0, "seq_kd": True}}
WITHOUT_ENGINE = {**TAKING, "generation": {"engine": "none"}}


def manifest(**changes: Any) -> Manifest:
    """What `gkdplan sample` writes for the plan and the facts of this file."""
    chosen = sampling_plan(plan(**TAKING), Role.TEACHER)
    run_plan = compile_plan(chosen, facts(), "test").run_plan
    assert run_plan is not None
    return replace(
        manifest_of_plan(run_plan, facts(), Role.TEACHER, "aa" * 32, Engine.MEGATRON), **changes
    )


def with_samples(weights: str | None = "aa" * 32, *, seen: Facts | None = None, **changes: Any):
    file = SamplesFile("drawn.jsonl", manifest(**changes), 64, "ef" * 32, weights)
    return replace(facts() if seen is None else seen, samples=file)


def findings(tables: dict = TAKING, **changes: Any):
    return check_declaration(plan(**tables), with_samples(**changes))


def test_samples_of_the_same_plan_have_no_finding():
    assert findings() == ()
    assert findings(WITHOUT_ENGINE) == ()


DIFFERENCES = {
    "role": ({"role": Role.STUDENT}, "GK441", "teacher.samples", "holds the student's samples"),
    "weights": ({"weights": "bb" * 32}, "GK441", "teacher.samples", "samples of other weights"),
    "tokenizer": ({"tokenizer": "0"}, "GK442", "teacher.samples", "another tokenizer"),
    "chat template": ({"chat_template": None}, "GK442", "teacher.samples", "another chat template"),
    "temperature": ({"temperature": 0.5}, "GK443", "distill.temperature", "0.5, and the plan's"),
    "top_p": ({"top_p": 0.8}, "GK443", "generation.top_p", "0.8, and the plan's is 1"),
    "top_k": ({"top_k": 9}, "GK443", "generation.top_k", "9, and the plan's is left out"),
    "length": (
        {"max_completion_length": 16},
        "GK443",
        "generation.max_completion_length",
        "16, and the plan's is 32",
    ),
    "max_length": ({"max_length": 16}, "GK444", "data.max_length", '16 and "delete", and the plan'),
    "truncation": ({"truncation": "left"}, "GK444", "data.truncation", 'and "left", and the plan'),
    "rows": (
        {"data": (words.SampledFile("rows.jsonl", 63, "ab" * 32),)},
        "GK444",
        "data.train[0]",
        "no samples of the rows of rows.jsonl",
    ),
    "file": (
        {"data": (words.SampledFile("rows.jsonl", 64, "00" * 32),)},
        "GK444",
        "data.train[0]",
        "no samples of the rows of rows.jsonl",
    ),
}  # fmt: skip
HELP = {
    "temperature": "set `distill.sampling_temperature` to 0.5",
    "top_p": "set `generation.top_p` to 0.8",
    "top_k": "set `generation.top_k` to 9",
    "length": "set `generation.max_completion_length` to 16",
    "max_length": 'set them to 16 and "delete"',
    "truncation": 'set them to 32 and "left"',
    "rows": 'set `data.train` to ["rows.jsonl#63"]',
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_each_difference_is_one_finding_with_both_values(difference):
    changes, code, path, message = DIFFERENCES[difference]
    (found,) = findings(**changes)
    assert (found.code, found.path) == (code, path)
    assert message in found.message
    assert "gkdplan sample" in " ".join(found.help)
    assert HELP.get(difference, "") in " ".join(found.help)


def test_all_differences_come_at_once():
    found = findings(role=Role.STUDENT, tokenizer="0", temperature=0.5, max_length=16)
    assert [f.code for f in found] == ["GK441", "GK442", "GK443", "GK444"]


@pytest.mark.parametrize("unseen", ["plan", "samples"])
def test_names_and_revisions_decide_where_weights_were_not_seen_on_a_side(unseen):
    ours = None if unseen == "plan" else "aa" * 32
    theirs = None if unseen == "samples" else "aa" * 32

    def found(**changes):
        file = SamplesFile("f", manifest(weights=theirs, **changes), 64, "ef" * 32, ours)
        return check_declaration(plan(**TAKING), replace(facts(), samples=file))

    assert found() == ()
    for changes in ({"model": "other"}, {"revision": "v2"}):
        (difference,) = found(**changes)
        assert difference.code == "GK441"
        assert difference.label == "it may be another model"
        assert "or take their teacher: `" in difference.help[1]
    assert "`teacher` at `v2`, and the teacher is `teacher`" in difference.message


def test_equal_weights_are_one_model_under_any_name():
    assert findings(model="elsewhere/teacher", revision="v2") == ()


def test_the_likeliest_token_is_taken_whatever_top_p_is():
    greedy = {**TAKING, "distill": {**TAKING["distill"], "sampling_temperature": 0.0}}
    assert findings(greedy, temperature=0.0, top_p=0.5, top_k=3) == ()


@pytest.mark.parametrize(
    ("theirs", "ours", "is_same"),
    [
        ((64, "delete"), (32, "delete"), True),
        ((16, "delete"), (32, "delete"), False),
        ((16, "error"), (32, "left"), True),
        ((64, "error"), (32, "left"), False),
        ((32, "left"), (32, "right"), False),
    ],
)
def test_limits_that_make_the_same_prompts_are_no_difference(theirs, ours, is_same):
    data = {"max_length": ours[0], "truncation": ours[1]}
    found = findings({**TAKING, "data": data}, max_length=theirs[0], truncation=theirs[1])
    assert [f.code for f in found] == ([] if is_same else ["GK444"])


def test_the_first_rows_of_those_that_were_sampled_have_samples():
    """Rows are numbered through all files: only the last file may have fewer."""
    first, second = "ab" * 32, "cd" * 32
    sampled = (words.SampledFile("a", 64, first), words.SampledFile("b", 64, second))

    def codes(*taken: tuple[str, int]) -> list[str]:
        files = tuple(data_file(num, fingerprint=print_) for print_, num in taken)
        found = check_declaration(
            plan(**TAKING), with_samples(seen=facts(train=files), data=sampled)
        )
        return [f.code for f in found]

    assert codes((first, 64), (second, 64)) == []
    assert codes((first, 64), (second, 16)) == []
    assert codes((first, 16)) == []
    assert codes((first, 16), (second, 64)) == ["GK444"]
    assert codes((second, 64)) == ["GK444"]
    assert codes((first, 64), (second, 64), (first, 64)) == ["GK444"]


def taking(tables: dict = TAKING):
    compilation = compile_plan(plan(**tables), with_samples(), "test")
    assert not [d for d in compilation.diagnostics if d.severity == "error"]
    assert compilation.run_plan is not None
    return compilation.run_plan


@pytest.mark.parametrize("tables", [TAKING, WITHOUT_ENGINE], ids=["megatron", "none"])
def test_no_generation_of_the_teacher_is_planned(tables):
    run_plan = taking(tables)
    assert not [step for step in run_plan.steps if isinstance(step, Generate)]
    (take,) = (step for step in run_plan.steps if isinstance(step, TakeSamples))
    assert take == TakeSamples(Source.TEACHER, "drawn.jsonl", rows_per_rank=8)
    (draw,) = (step for step in run_plan.steps if isinstance(step, Draw))
    assert (draw.lmbda, draw.seq_kd) == (0, 1)
    (memory,) = run_plan.ledger.classes
    assert Phase.GENERATE not in memory.phases
    assert Phase.GENERATE not in run_plan.timing.phases
    assert run_plan.timing.sampled_share == 0
    assert decode(encode(run_plan)) == run_plan


def test_the_student_still_samples():
    run_plan = taking({**TAKING, "distill": {"lmbda": 0.5, "seq_kd": True}})
    roles = [step.role for step in run_plan.steps if isinstance(step, Generate)]
    assert roles == [Role.STUDENT]
    assert run_plan.timing.sampled_share == 0.5


def test_the_outline_says_where_they_come_from():
    text = " ".join(outline(taking(WITHOUT_ENGINE)).split())
    assert "teacher's samples from drawn.jsonl 100%" in text
    assert "take the teacher's samples of 8 prompts a rank from drawn.jsonl, if drawn" in text


def test_other_samples_are_another_run():
    seen = with_samples()
    assert seen.samples is not None
    other = replace(seen, samples=replace(seen.samples, fingerprint="00" * 32))
    prints = {
        compile_plan(plan(**TAKING), known, "test").run_plan.fingerprint for known in (seen, other)
    }
    assert len(prints) == 2


def test_samples_that_no_step_takes_are_said_to_have_no_effect():
    unread = {"teacher": TEACHER, "distill": {"lmbda": 0.5, "seq_kd": False}}
    (found,) = findings(unread, tokenizer="0")
    assert (found.code, found.path) == ("GK430", "teacher.samples")


def test_what_has_no_engine_but_samples_has_no_warning():
    """Without an engine `top_p` is still what the samples are held against."""
    tables = {**TAKING, "generation": {"engine": "none", "top_p": 0.8}}
    assert findings(tables, top_p=0.8) == ()
    half = {**tables, "distill": {"lmbda": 0.5, "seq_kd": True}}
    (found,) = findings(half, top_p=0.8)
    assert (found.code, found.path) == ("GK411", "distill.lmbda")


def test_a_teacher_that_nothing_here_can_sample_has_its_samples_in_a_file():
    vllm = {**TAKING, "generation": {"engine": "vllm"}}
    shape = replace(TINY, head_dim=32)
    seen = with_samples(seen=facts(shape, shape))
    codes = [f.code for f in check_declaration(plan(**vllm), seen)]
    assert "GK590" not in codes


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"samples": 1},
        {"row": 0},
        {"samples": {"version": 2}},
        {"samples": {"version": 1}},
        {"samples": {"version": 1, "data": [1]}},
    ],
)
def test_what_is_no_manifest_is_refused(record):
    with pytest.raises(words.NoManifestError):
        manifest_of(record)


@pytest.mark.parametrize("key", list(manifest_record(manifest())["samples"]))
def test_a_manifest_is_read_back_strictly(key):
    whole = json.loads(json.dumps(manifest_record(manifest())))
    assert manifest_of(whole) == manifest()
    del whole["samples"][key]
    with pytest.raises(words.NoManifestError):
        manifest_of(whole)
    whole["samples"][key] = {"of": "another type"}
    with pytest.raises(words.NoManifestError):
        manifest_of(whole)


def test_a_manifest_says_all_that_decides_samples():
    made = manifest()
    assert (made.engine, made.dtype, made.seed) == (Engine.MEGATRON, Dtype.FP32, 42)
    assert made.tokenizer == tokenizer().fingerprint
    assert made.model == model_facts("teacher", TINY, None).name
