"""Findings about memory: every edit that help names has been priced."""

import re

import pytest
from planner_facts import QWEN_3B, QWEN_7B, facts, plan

from gkdplan.planner.checks.edits import edits_that_fit
from gkdplan.planner.checks.fit import check_fit
from gkdplan.planner.pricing import price
from gkdplan.units import format_bytes
from gkdplan.vocab import Verdict

H100 = facts(QWEN_3B, QWEN_7B, "h100-80gb")


def h100_plan(**tables):
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 2},
        "student": {"dtype": "bf16"},
        "data": {"max_length": 1536},
        "generation": {"max_completion_length": 512},
        "batch": {"micro": 8, "global": 16},
    }
    return plan(**{name: {**base.get(name, {}), **tables.get(name, {})} for name in base | tables})


def ledger_of(edited):
    return price(edited, H100).ledger


def test_a_plan_that_fits_has_no_finding():
    tables = {"student": {"parallel": {"tensor": 2}}, "batch": {"micro": 1}}
    fitting = h100_plan(**tables)
    assert ledger_of(fitting).verdict is Verdict.FITS
    assert check_fit(fitting, H100, ledger_of(fitting)) == ()


def test_a_plan_that_does_not_fit_names_the_peak_and_its_largest_rows():
    ledger = ledger_of(h100_plan())
    (found,) = check_fit(h100_plan(), H100, ledger)
    assert found.code == "GK301"
    assert f"{format_bytes(ledger.peak_bytes)} of 79.1 GiB in student" in found.message
    assert found.notes[0].startswith("activations: ")


EDITS = {
    "batch.micro": lambda v: {"batch": {"micro": v}},
    "student.parallel.tensor": lambda v: {"student": {"parallel": {"tensor": v}}},
    "student.parallel.pipeline": lambda v: {"student": {"parallel": {"pipeline": v}}},
    "student.recompute": lambda v: {
        "student": {"recompute": {"granularity": "full", "method": "block", "num_layers": v}}
    },
    "data.max_length": lambda v: {"data": {"max_length": v}},
}


def test_every_edit_that_is_offered_fits_with_the_peak_that_it_names():
    offered = list(edits_that_fit(h100_plan(), H100))
    assert offered
    before = ledger_of(h100_plan()).peak_bytes
    for edit in offered:
        key, value = re.fullmatch(r"set `(\S+)` to .*?(\d+)", edit.description).groups()
        ledger = ledger_of(h100_plan(**EDITS[key](int(value))))
        assert ledger.verdict is not Verdict.OVER
        assert edit.peak_bytes == ledger.peak_bytes
        assert edit.saved_bytes == before - ledger.peak_bytes
        saved, peak = format_bytes(edit.saved_bytes), format_bytes(edit.peak_bytes)
        assert edit.sentence.endswith(f": it saves {saved}, the peak is {peak} then")


def test_the_micro_batch_that_is_offered_is_the_largest_that_fits():
    (micro,) = (
        int(match[1])
        for edit in edits_that_fit(h100_plan(), H100)
        if (match := re.match(r"set `batch.micro` to (\d+)", edit.description))
    )
    larger = [m for m in range(micro + 1, 8) if 16 % (2 * m) == 0]
    assert all(ledger_of(h100_plan(batch={"micro": m})).verdict is Verdict.OVER for m in larger)


def test_offloading_is_offered_where_the_teacher_is_what_is_too_much():
    crowded = h100_plan(
        cluster={"device": "h100-80gb", "devices_per_node": 2, "memory_limit": "60 GiB"},
        batch={"micro": 1, "global": 2},
        data={"max_length": 128},
        generation={"max_completion_length": 128},
    )
    edits = list(edits_that_fit(crowded, H100))
    assert any(edit.description == 'set `teacher.offload` to "cpu"' for edit in edits)


def test_a_plan_close_to_the_limit_is_a_warning():
    ledger = ledger_of(h100_plan(student={"parallel": {"tensor": 2}}, batch={"micro": 1}))
    limit = f"{ledger.peak_bytes / 2**30 / 0.85:.3f} GiB"
    tight = h100_plan(
        cluster={"memory_limit": limit},
        student={"parallel": {"tensor": 2}},
        batch={"micro": 1},
    )
    (found,) = check_fit(tight, H100, ledger_of(tight))
    assert (found.code, found.path) == ("GK302", "cluster.memory_limit")


def test_host_memory_is_checked_for_the_whole_node():
    # 7 B parameters in bf16 on 192 data ranks: 192 x 13.2 GiB are more than 2,048 GiB.
    tables = {"cluster": {"devices_per_node": 192}, "batch": {"micro": 1, "global": 192}}
    many = h100_plan(teacher={"offload": "cpu"}, **tables)
    (found,) = (f for f in check_fit(many, H100, ledger_of(many)) if f.code == "GK303")
    assert found.path == "teacher.offload"
    assert found.help[0].startswith('set `teacher.offload` to "none"')


@pytest.mark.parametrize("limit", ["1 MiB", "4 MiB"])
def test_a_hopeless_plan_says_so(limit):
    hopeless = plan(cluster={"memory_limit": limit})
    (found,) = check_fit(hopeless, facts(), price(hopeless, facts()).ledger)
    assert found.help
