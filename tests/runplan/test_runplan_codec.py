import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gkdplan.diagnostics import UserError
from gkdplan.runplan.codec import checksum, decode, encode, fingerprint, seal, to_record
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    GenerateAhead,
    Move,
    Refit,
    Reshard,
    Step,
    TakeSamples,
)
from gkdplan.vocab import Payload, Phase, Source, Tier

SCALARS = {
    str: st.text(max_size=8),
    int: st.integers(),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    NoneType: st.none(),
}


def values_of(hint) -> st.SearchStrategy:
    """Every value that a type hint of the run plan allows, but for NaN and infinity."""
    if hint in SCALARS:
        return SCALARS[hint]
    if isinstance(hint, UnionType):
        return st.one_of([values_of(member) for member in get_args(hint)])
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return st.builds(hint, **{f.name: values_of(hints[f.name]) for f in fields(hint)})
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is tuple:
        return st.tuples(*map(values_of, get_args(hint)))
    if get_origin(hint) is Mapping:
        keys, items = map(values_of, get_args(hint))
        return st.dictionaries(keys, items, max_size=3)
    assert issubclass(hint, Enum)
    return st.sampled_from(list(hint))


RUN_PLANS = values_of(RunPlan).map(lambda plan: seal(replace(plan, schema_version=SCHEMA_VERSION)))
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(RUN_PLANS)
def test_every_run_plan_survives_the_round_trip(plan):
    assert decode(encode(plan)) == plan


@SLOW
@given(RUN_PLANS)
def test_the_text_is_canonical(plan):
    text = encode(plan)
    assert encode(decode(text)) == text
    canonical = json.dumps(json.loads(text), sort_keys=True, indent=2, ensure_ascii=False)
    assert text == canonical + "\n"


def test_whole_numbers_in_float_fields_are_written_with_a_point(run_plan):
    whole = seal(replace(run_plan, objective=replace(run_plan.objective, beta=1)))
    assert '"beta": 1.0' in encode(whole)
    assert decode(encode(whole)).objective.beta == 1.0


def test_the_lock_has_the_sections_that_the_documentation_names(run_plan):
    record = to_record(run_plan)
    assert record.keys() >= {
        "schema_version", "tool", "fingerprint", "checksum", "inputs", "models", "layout",
        "ledger", "schedule", "steps",
    }  # fmt: skip
    assert record["schedule"]["moves"][0] == {
        "phase": "generate",
        "object": "teacher body",
        "from": "host",
        "to": "device",
        "bytes": 405 * 2**20,
        "seconds": 0.042,
        "due": None,
        "hidden_s": 0.0,
    }
    assert record["steps"][0] == {"kind": "draw", "seed": 42, "lmbda": 0.4, "seq_kd": 0.5}
    assert record["ledger"]["classes"][0]["phases"]["student"]["rows"]["loss tiles"] == 450 * 2**20


def test_every_kind_of_step_has_its_own_tag(run_plan):
    awaited = Await(Phase.TEACHER, "teacher body")
    asked = AskTeacher(("http://127.0.0.1:8000",), 8, 256, 64)
    taken = TakeSamples(Source.TEACHER, "samples.jsonl", 8)
    sent = Refit(2**30, 2**29), GenerateAhead(2**29, 16, 64)
    others = *sent, taken, awaited, asked, Reshard(Payload.HIDDEN, 2**20)
    with_all = replace(run_plan, steps=(*run_plan.steps, *others))
    kinds = [step["kind"] for step in to_record(with_all)["steps"]]
    assert set(kinds) == {
        "draw", "move", "await", "refit", "generate", "generate_ahead", "teacher_forward",
        "ask_teacher", "reshard", "take_samples", "student_step", "optimizer_step", "evaluate",
        "checkpoint",
    }  # fmt: skip
    assert len(set(kinds)) == len(get_args(Step))


def test_a_run_is_the_same_whatever_is_said_of_it(run_plan):
    """Another version's prices, another name for the plan, a config found in another place."""
    (memory, *_), moves = run_plan.ledger.classes, run_plan.schedule.moves
    repriced = replace(
        run_plan,
        tool="gkdplan 9.9.9",
        name="other",
        inputs=replace(run_plan.inputs, student=replace(run_plan.inputs.student, origin="hub")),
        layout=replace(run_plan.layout, classes=()),
        ledger=replace(run_plan.ledger, peak_bytes=1, classes=(memory, memory)),
        timing=replace(run_plan.timing, assumptions=()),
        schedule=replace(run_plan.schedule, moves=moves[1:]),
        steps=tuple(
            replace(step, num_bytes=1, seconds=9.0, hidden_s=1.0)
            if isinstance(step, Move)
            else step
            for step in run_plan.steps
        ),
    )
    assert fingerprint(repriced) == run_plan.fingerprint
    assert checksum(repriced) != run_plan.checksum


def test_a_run_is_another_where_the_executor_would_do_otherwise(run_plan):
    (fetch,) = [s for s in run_plan.steps if isinstance(s, Move) and s.to_tier is Tier.DEVICE]
    later = replace(fetch, phase=Phase.STUDENT)
    for other in (
        replace(run_plan, training=replace(run_plan.training, num_steps=25)),
        replace(run_plan, optimizer=replace(run_plan.optimizer, lr=0.5)),
        replace(run_plan, steps=run_plan.steps[1:]),
        replace(run_plan, steps=tuple(later if s is fetch else s for s in run_plan.steps)),
    ):
        assert fingerprint(other) != run_plan.fingerprint


def finding(text: str):
    with pytest.raises(UserError) as raised:
        decode(text, "plan.lock.json")
    (diagnostic,) = raised.value.diagnostics
    return diagnostic


def edited(run_plan: RunPlan, *path_and_value) -> str:
    """The lock's text with the value at a path replaced, or removed where it is `...`."""
    *path, key, value = path_and_value
    record = to_record(run_plan)
    at = record
    for step in path:
        at = at[step]
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("edit", "path", "reason"),
    [
        (("layout", "student", "tensor", "two"), "layout.student.tensor", "an integer, not a str"),
        (("layout", "student", "tensor", True), "layout.student.tensor", "an integer, not a bool"),
        (("layout", "student", "tensor", 2.0), "layout.student.tensor", "an integer, not a num"),
        (("objective", "beta", 1), "objective.beta", "a number with a point, not an integer"),
        (("name", None), "name", "a string, not null"),
        (("steps", {}), "steps", "an array, not an object"),
        (("models", []), "models", "an object, not an array"),
        (("models", "student", "dtype", "fp8"), "models.student.dtype", "one of fp32, bf16"),
        (("models", "student", "dtype", ...), "models.student.dtype", "is missing"),
        (("batch", "rows", 1), "batch.rows", "is not a known key"),
        (("steps", 4, "kind", "import_os"), "steps[4].kind", "one of draw, refit, generate"),
        (("steps", 4, "width", "wide"), "steps[4].width", "an integer, not a string"),
        (("optimizer", "betas", [0.9]), "optimizer.betas", "should have 2 items, not 1"),
        (
            ("ledger", "classes", 0, "phases", {"lunch": {}}),
            "ledger.classes[0].phases.lunch",
            "one of refit, generate",
        ),
    ],
)  # fmt: skip
def test_a_value_that_does_not_belong_is_named_by_its_path(run_plan, edit, path, reason):
    found = finding(edited(run_plan, *edit))
    assert (found.code, found.path) == ("GK502", path)
    assert found.message.startswith(f"plan.lock.json is not a lock of gkdplan: `{path}` ")
    assert reason in found.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("name = 'toml'", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"schema_version": NaN}', "NaN is not a JSON number"),
        ("[]", "no `schema_version`"),
        ("{}", "no `schema_version`"),
    ],
)
def test_what_is_no_lock_is_refused(text, reason):
    found = finding(text)
    assert found.code == "GK502"
    assert reason in found.message


def test_an_edited_lock_is_refused(run_plan):
    found = finding(edited(run_plan, "training", "num_steps", 25))
    assert (found.code, found.path) == ("GK503", "fingerprint")
    assert found.notes[0] == f"it says {run_plan.fingerprint}"


def test_an_edited_price_is_refused_too(run_plan):
    found = finding(edited(run_plan, "ledger", "peak_bytes", 1))
    assert (found.code, found.path) == ("GK503", "checksum")
    assert found.notes[0] == f"it says {run_plan.checksum}"


def test_a_lock_of_another_format_says_which(run_plan):
    found = finding(edited(run_plan, "schema_version", SCHEMA_VERSION + 1))
    assert found.code == "GK504"
    assert f"format {SCHEMA_VERSION + 1}" in found.message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=200, deadline=None)
@given(st.text() | JSON_VALUES.map(lambda name: json.dumps({"schema_version": 1, "name": name})))
def test_no_text_makes_decode_raise_anything_but_a_finding(text):
    with pytest.raises(UserError):
        decode(text)
