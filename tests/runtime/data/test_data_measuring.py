"""Rows measured without torch: the tokens are those of a run, and so is what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import CHAT_TEMPLATE

from gkdplan.diagnostics import UserError
from gkdplan.runplan.model import DataPlan
from gkdplan.runplan.row_lengths import Histogram, Lengths
from gkdplan.runtime.data.examples import Split, load_examples
from gkdplan.runtime.data.light_chat import load_light_chat
from gkdplan.runtime.data.measuring import measure
from gkdplan.runtime.data.rows import read_items, read_row
from gkdplan.runtime.data.tokenise import tokenise

USER, ASSISTANT = {"role": "user", "content": "how, é?"}, {"role": "assistant", "content": "well"}
SYSTEM = {"role": "system", "content": "be brief"}
ROWS = [
    {"messages": [USER, ASSISTANT]},
    {"messages": [SYSTEM, USER, ASSISTANT, USER]},
    {"prompt": "two words", "completion": " and more\n"},
    {"prompt": "two words"},
]


def light(chat, **changes):
    directory = chat.tokenizer.name_or_path
    template, eos_token = chat.tokenizer.chat_template, chat.tokenizer.eos_token
    return load_light_chat(str(directory), changes.get("template", template), eos_token)


def assert_alike(chat, data_file) -> None:
    alone = light(chat)
    assert (alone.eos_id, alone.end_of_turn_id) == (chat.eos_id, chat.end_of_turn_id)
    for item in read_items(data_file(*ROWS), "data.train[0]"):
        row = read_row(item, "data.train[0]")
        assert tokenise(row, alone, "data.train[0]") == tokenise(row, chat, "data.train[0]")


def test_the_tokens_are_those_of_the_real_tokenizer(smollm2_chat, data_file) -> None:
    assert_alike(smollm2_chat, data_file)


TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "generation": "{% for m in messages %}\n    {% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}\n{% endfor %}\n",
    "json": "{% for m in messages %}{{ m | tojson }}{{ eos_token }}{% endfor %}",
    "break": "{% for m in messages %}{% if loop.index > 4 %}{% break %}{% endif %}"
    "{{ m.role }}{{ m.content }}{{ eos_token }}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_is_rendered_as_transformers_does(template, tiny_chat, data_file) -> None:
    assert_alike(tiny_chat(template), data_file)


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ 1 // 0 }}", "{{ x.y.z }}"])
def test_a_template_that_fails_refuses_the_row(template, tiny_chat, data_file) -> None:
    chat = light(tiny_chat(), template=template)
    (item,) = read_items(data_file(ROWS[0]), "data.train[0]")
    with pytest.raises(UserError, match="GK473"):
        tokenise(read_row(item, "data.train[0]"), chat, "data.train[0]")


def test_a_template_reads_no_file_and_runs_no_code(tiny_chat) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(Exception, match=r"unsafe|no attribute|undefined"):
        light(tiny_chat(), template=escape).render([USER], generation_prompt=True)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GK480"):
        load_light_chat(str(tmp_path), None, None)


DATA = DataPlan((), (), max_length=8, truncation="delete", shuffle=True)
SHORT, LONG = {"prompt": "abc", "completion": "de"}, {"prompt": "0123456789", "completion": "f" * 9}


@pytest.fixture
def measured(tiny_chat, data_file, run_plan):
    """Measure rows of single-character tokens by a plan whose data has these changes."""
    chat = tiny_chat(None)

    def run(*rows, global_rows=1, needs_responses=False, **changes):
        data = replace(DATA, train=(data_file(*rows),), **changes)
        plan = replace(
            run_plan,
            data=data,
            batch=replace(run_plan.batch, global_rows=global_rows),
            sampling=replace(run_plan.sampling, max_completion_length=4),
        )
        alone = light(chat, template=None)
        (split,), found = measure(plan, alone, lambda: None, needs_responses=needs_responses)
        return split, found, plan, chat

    return run


def test_what_is_counted_is_what_a_run_does(measured) -> None:
    rows = [SHORT, LONG, SHORT, {"prompt": "abcd", "completion": ""}, {"prompt": "ab"}]
    split, found, plan, chat = measured(*rows)
    run = load_examples(Split(plan.data.train, plan.data, 4), chat)
    assert found == ()
    assert (split.num_rows, split.num_taken) == (5, len(run.examples)) == (5, 4)
    assert split.num_long == run.num_deleted == 1
    assert (split.num_unanswered, split.num_empty, split.num_repeated) == (1, 1, 1)
    assert split.prompts.at_percent == (3, 10, 10, 10)
    assert sum(split.totals.counts) == 4


@pytest.mark.parametrize("truncation", ["left", "right"])
def test_tokens_that_responses_lose_are_counted(measured, truncation) -> None:
    split, found, plan, chat = measured(SHORT, LONG, truncation=truncation)
    run = load_examples(Split(plan.data.train, plan.data, 4), chat)
    assert found == ()
    assert split.num_cut == run.num_cut == 1
    assert split.num_tokens_cut == 9 + 1 - 4  # nine letters and the end
    lengths = [len(e.prompt) + len(e.response) for e in run.examples]
    assert split.totals == Histogram.of(lengths)


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [
        ([SHORT, "{"], {}, "GK472"),
        ([SHORT, {"prompt": ""}], {}, "GK477"),
        ([SHORT, {"prompt": "a"}], {"needs_responses": True}, "GK478"),
        ([SHORT, LONG], {"truncation": "error"}, "GK476"),
        ([LONG, LONG], {}, "GK476"),
        ([SHORT, LONG], {"global_rows": 2}, "GK479"),
        ([SHORT, {"messages": [USER, ASSISTANT]}], {}, "GK481"),
    ],
)
def test_what_ends_a_run_is_said_before_it(measured, rows, options, code) -> None:
    _, found, _, _ = measured(*rows, **options)
    assert [finding.code for finding in found] == [code]


def test_bad_rows_within_the_limit_are_counted_and_end_nothing(measured) -> None:
    split, found, _, _ = measured(SHORT, "{", {"text": 1}, max_bad_rows=2)
    assert found == ()
    assert [row.code for row in split.bad_rows] == ["GK472", "GK472"]
    split, found, _, _ = measured(SHORT, "{", {"text": 1}, "}", "]", max_bad_rows=2)
    assert [finding.code for finding in found] == ["GK472"]
    assert len(split.bad_rows) == 4


def test_percentiles_are_nearest_ranks() -> None:
    assert Lengths.of(range(1, 101)).at_percent == (50, 90, 99, 100)
    assert Lengths.of([7]).at_percent == (7, 7, 7, 7)
    assert Lengths.of([]).at_percent == (0, 0, 0, 0)


def test_bins_hold_every_row() -> None:
    found = Histogram.of([1, 2, 3, 20, 20])
    assert (found.width, found.counts) == (2, (2, 1, 0, 0, 0, 0, 0, 0, 0, 2))


def test_check_reads_rows_without_torch(smollm2: Path) -> None:
    program = (
        "import sys\nfrom gkdplan.cli.main import run\n"
        "status = run(['check', '--data', '--json', 'plans/quickstart.toml'])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\nsys.exit(status)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, timeout=120, check=True
    )
    train, held_out = json.loads(done.stdout)["data"]
    assert (train["num_taken"], held_out["num_taken"]) == (304, 28)
