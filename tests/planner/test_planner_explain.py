import re
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from planner_facts import QWEN_3B, QWEN_7B, SMOLLM2, TINY, data_file, facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.draft import draft_of
from gkdplan.planner.memory.buffer import REPORT_ORDER
from gkdplan.planner.memory.explain import ORIGINS, explain
from gkdplan.planner.memory.symbol_names import ORDER
from gkdplan.planner.memory.symbols import symbols_of
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Phase

ROOT = Path(__file__).parents[2]
GPU = {"device": "h100-80gb", "devices_per_node": 8}
BF16 = {"model": "student", "dtype": "bf16"}
PLANS = {
    "one rank, from all sources": (
        facts(TINY, SMOLLM2, eval=(data_file(8),)),
        {"distill": {"lmbda": 0.4, "seq_kd": 0.5}},
    ),
    "stored logits over two tensor ranks": (
        facts(TINY, TINY, eval=(data_file(8),)),
        {
            "cluster": {"devices_per_node": 2},
            "student": {"model": "student", "dtype": "fp32", "parallel": {"tensor": 2}},
            "distill": {"payload": "logits"},
        },
    ),
    "no distributed optimizer": (
        facts(TINY, TINY),
        {"cluster": {"devices_per_node": 2}, "optimizer": {"distributed": False}},
    ),
    "offload on a gpu": (
        facts(QWEN_3B, QWEN_7B, "h100-80gb"),
        {
            "cluster": GPU,
            "student": BF16 | {"parallel": {"tensor": 2}},
            "teacher": {"model": "teacher", "offload": "cpu"},
        },
    ),
    "adapters on a frozen base": (
        facts(QWEN_3B, QWEN_7B, "h100-80gb"),
        {"cluster": GPU, "student": BF16 | {"tuning": "lora", "parallel": {"tensor": 2}}},
    ),
    "uneven stages, and a teacher on its own mesh": (
        facts(QWEN_3B, QWEN_7B, "h100-80gb"),
        {
            "cluster": GPU,
            "student": BF16 | {"parallel": {"pipeline": 4, "first_stage_layers": 6}},
            "teacher": {"model": "teacher", "parallel": {"tensor": 4}},
        },
    ),
    "vllm beside the training": (
        facts(QWEN_3B, QWEN_7B, "h100-80gb"),
        {
            "cluster": GPU,
            "student": BF16 | {"parallel": {"tensor": 2}},
            "generation": {"engine": "vllm", "tensor": 4},
        },
    ),
    "virtual stages and context": (
        facts(QWEN_3B, QWEN_7B, "h100-80gb"),
        {
            "cluster": GPU,
            "student": BF16
            | {"parallel": {"pipeline": 2, "virtual_pipeline": 2, "context": 2, "tensor": 2}},
            "teacher": {"model": "teacher", "parallel": {"tensor": 4, "pipeline": 2}},
            "batch": {"micro": 2, "global": 16},
        },
    ),
}


def compiled(name: str) -> tuple[RunPlan, tuple]:
    """The run plan and its explanations."""
    known, tables = PLANS[name]
    run_plan = compile_plan(plan(**tables), known, "test").run_plan
    assert run_plan is not None
    return run_plan, explain(draft_of(run_plan), known.device, run_plan.schedule.moves)


def read(product: str, values: dict[str, int], times: str) -> Fraction:
    """`12 b s h / t` or `12 x 4 x 96 / 2`, read as arithmetic."""
    above, *below = product.split(" / ")
    value = Fraction(1)
    for factor in above.split(times):
        value *= values[factor] if factor in values else int(factor.replace(",", ""))
    for factor in below:
        value /= values[factor] if factor in values else int(factor.replace(",", ""))
    return value


@pytest.mark.parametrize("name", PLANS)
def test_every_number_of_the_ledger_is_explained(name):
    run_plan, explanations = compiled(name)
    ledger = {
        (memory.ranks, phase, row): num_bytes
        for memory in run_plan.ledger.classes
        for phase, in_phase in memory.phases.items()
        for row, num_bytes in in_phase.rows.items()
    }
    assert len(ledger) >= 20
    assert {(e.ranks, e.phase, e.row): e.num_bytes for e in explanations} == ledger


def test_formulas_do_not_depend_on_the_plan_that_was_explained_before():
    """Sizes are equal, and which model's tensor degree is 2 is not."""
    cluster, known = {"devices_per_node": 2}, facts(TINY, TINY)
    student = {"model": "student", "dtype": "fp32", "parallel": {"tensor": 2}}
    teacher = {"model": "teacher", "parallel": {"tensor": 2}}
    for tables in ({"student": student}, {"teacher": teacher}):
        run_plan = compile_plan(plan(cluster=cluster, **tables), known, "test").run_plan
        assert run_plan is not None
        for explanation in explain(draft_of(run_plan), known.device, run_plan.schedule.moves):
            terms = sum(term.num_bytes for term in explanation.terms)
            assert terms == explanation.num_bytes, explanation.row


@pytest.mark.parametrize("name", PLANS)
def test_the_terms_of_a_number_sum_to_it(name):
    _, explanations = compiled(name)
    for explanation in explanations:
        assert sum(term.num_bytes for term in explanation.terms) == explanation.num_bytes
        sizes = [term.num_bytes for term in explanation.terms]
        assert all(larger >= smaller - 1 for larger, smaller in pairwise(sizes))


@pytest.mark.parametrize("name", PLANS)
def test_a_formula_s_text_comes_to_its_bytes(name):
    _, explanations = compiled(name)
    for explanation in explanations:
        values = {symbol.name: symbol.value for symbol in explanation.symbols}
        read_terms = [read(term.formula, values, " ") for term in explanation.terms]
        assert sum(read_terms) == explanation.num_bytes
        for term, value in zip(explanation.terms, read_terms, strict=True):
            assert abs(term.num_bytes - value) <= 1
            assert read(term.numbers, {}, " x ") == value


@pytest.mark.parametrize("name", PLANS)
def test_the_symbols_given_are_those_that_occur(name):
    _, explanations = compiled(name)
    for explanation in explanations:
        text = " ".join(term.formula for term in explanation.terms)
        assert {s.name for s in explanation.symbols} == set(re.findall(r"[A-Za-z]+'?", text))


def test_gradients_are_four_bytes_a_parameter():
    _, explanations = compiled("stored logits over two tensor ranks")
    (grads,) = (e for e in explanations if (e.phase, e.row) == (Phase.STUDENT, "student grads"))
    # 4 bytes of: a tied embedding V h / t; in each of 2 layers an MLP 3 h F / t, a projection
    # h a d / t, a qkv projection (h a d + 2 h g d) / t, two norms 2 h; and a final norm h.
    assert {term.formula for term in grads.terms if not term.formula.isdigit()} == {
        "4 V h / t",
        "24 h F / t",
        "16 h a d / t",
        "16 h g d / t",
        "20 h",
    }


def test_the_layers_of_a_gpu_keep_what_is_published():
    _, explanations = compiled("offload on a gpu")
    (kept,) = (e for e in explanations if (e.phase, e.row) == (Phase.STUDENT, "activations"))
    formulas = {term.formula for term in kept.terms}
    # Each of l layers, of N = b s tokens and 2 bytes an element, sequence parallel: two norms keep
    # input and output, 8 N h / t; a query takes 2 in the fused projection, rotated, and as context,
    # 6 N a d / t; the unfused gated MLP keeps 5 widths, 10 N F / t.
    assert {"8 l b s h / t", "6 l b s a d / t", "10 l b s F / t"} <= formulas


def test_every_row_has_an_origin_and_megatron_has_the_files_named():
    assert ORIGINS.keys() == set(REPORT_ORDER)
    megatron = Path(next(iter(find_spec("megatron.core").submodule_search_locations))).parents[1]
    for _, source in ORIGINS.values():
        for path in re.findall(r"[\w/]+\.(?:py|md)", source):
            if path.startswith("vllm"):
                continue  # is not installed here
            root = megatron if path.startswith("megatron") else ROOT
            assert (root / path).is_file(), path


def test_every_symbol_has_its_place():
    run_plan, _ = compiled("one rank, from all sources")
    symbols = symbols_of(draft_of(run_plan), facts().device)
    assert {name.rstrip("'") for name in symbols} <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


def test_the_page_of_formulas_has_every_symbol():
    page = (ROOT / "docs/formulas.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(ORDER)
