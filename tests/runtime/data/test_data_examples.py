"""The examples of a split: what its limits keep, cut and leave out, and that nothing is silent."""

from dataclasses import replace

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runplan.model import DataPlan
from gkdplan.runtime.data.examples import Split, load_examples

PLAN = DataPlan(train=(), eval=(), max_length=8, truncation="delete", shuffle=True)
SHORT = {"prompt": "abc", "completion": "de"}
LONG = {"prompt": "0123456789", "completion": "fff"}


@pytest.fixture
def letters(tiny_chat):
    """A tokenizer without merges for these texts: every character is one token."""
    chat = tiny_chat(None)
    assert [len(chat.encode(row["prompt"])) for row in (SHORT, LONG)] == [3, 10]
    return chat


def load(data_file, chat, *rows, truncation="delete", max_completion_length=8, **options):
    data = replace(PLAN, truncation=truncation)
    return load_examples(Split((data_file(*rows),), data, max_completion_length, **options), chat)


def test_an_example_holds_the_row_s_tokens_and_words(data_file, letters):
    (example,) = load(data_file, letters, SHORT).examples
    assert example.prompt == letters.encode("abc")
    assert example.response == (*letters.encode("de"), letters.eos_id)
    assert (example.row, example.question) == (0, "abc")


def test_delete_leaves_out_the_rows_whose_prompts_are_too_long_and_says_so(data_file, letters):
    loaded = load(data_file, letters, SHORT, LONG, SHORT, {"prompt": "012345678"})
    assert [example.row for example in loaded.examples] == [0, 2]
    assert loaded.num_deleted == 2
    left_out, longest = loaded.notes
    assert left_out == "rows of `data.train` left out, their prompts exceed `data.max_length`: 2"
    assert longest.startswith("the longest prompt of `data.train` has 10 tokens, at ")
    assert longest.endswith("rows.jsonl:2")


@pytest.mark.parametrize(("truncation", "kept"), [("left", "23456789"), ("right", "01234567")])
def test_a_side_that_is_truncated_loses_its_tokens_and_the_response_stays(
    data_file, letters, truncation, kept
):
    loaded = load(data_file, letters, SHORT, LONG, truncation=truncation)
    example = loaded.examples[1]
    assert letters.decode(example.prompt) == kept
    assert example.response == (*letters.encode("fff"), letters.eos_id)
    assert (loaded.num_truncated, loaded.num_deleted) == (1, 0)
    assert loaded.notes[0] == "prompts of `data.train` cut to `data.max_length`: 1"
    assert loaded.longest is not None
    assert loaded.longest[0] == 10


def test_a_split_of_which_nothing_is_left_is_refused_with_the_lengths_that_would_do(
    data_file, letters
):
    with pytest.raises(UserError) as caught:
        load(data_file, letters, LONG, {**LONG, "prompt": "0123456789abc"}, key="data.eval")
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.path) == ("GK476", "data.max_length")
    assert "no row of `data.eval` is left: all 2 prompts" in finding.message
    assert "to 13 to keep all of them (10 for the shortest)" in finding.help[0]


def test_a_prompt_of_exactly_the_limit_is_whole(data_file, letters):
    row = {"prompt": "01234567", "completion": "x"}
    loaded = load(data_file, letters, row, truncation="error")
    assert loaded.examples[0].prompt == letters.encode("01234567")
    assert loaded.notes == ()


def test_error_names_the_row_s_line_and_length(data_file, letters):
    with pytest.raises(UserError) as caught:
        load(data_file, letters, SHORT, LONG, truncation="error")
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.path) == ("GK476", "data.max_length")
    assert "rows.jsonl:2` has a prompt of 10 tokens" in finding.message
    assert "raise `data.max_length` to 10" in finding.help[0]


def test_a_long_response_is_cut_and_counted(data_file, letters):
    loaded = load(data_file, letters, SHORT, LONG, truncation="left", max_completion_length=3)
    short, long = loaded.examples
    assert short.response == (*letters.encode("de"), letters.eos_id)
    assert long.response == letters.encode("fff")
    assert loaded.num_cut == 1
    assert "responses of `data.train` cut to `generation.max_completion_length`: 1" in loaded.notes


def test_rows_are_numbered_across_files(data_file, letters):
    sources = [data_file(SHORT, LONG, name="a.jsonl"), data_file(SHORT, SHORT, name="b.jsonl")]
    loaded = load_examples(Split(sources, PLAN, 8), letters)
    assert [example.row for example in loaded.examples] == [0, 2, 3]


def test_a_row_without_a_response_is_refused_only_where_responses_are_learned_from(
    data_file, letters
):
    rows = (SHORT, {"prompt": "abc"})
    assert load(data_file, letters, *rows).examples[1].response is None
    with pytest.raises(UserError) as caught:
        load(data_file, letters, *rows, needs_responses=True)
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.path) == ("GK478", "data.train[0]")
    assert "rows.jsonl:2" in finding.message


ALLOWING = replace(PLAN, max_bad_rows=2)
BAD, REFUSED = {"text": "a"}, {"prompt": ""}


def test_bad_rows_are_left_out_up_to_the_limit_and_named(data_file, letters):
    source = data_file(SHORT, "{", BAD, SHORT)
    loaded = load_examples(Split((source,), ALLOWING, 8), letters)
    assert [example.row for example in loaded.examples] == [0, 3]
    assert [found.code for found in loaded.bad_rows] == ["GK472", "GK472"]
    assert loaded.file_sizes == (2,)
    assert loaded.notes[0] == "rows of `data.train` left out, they cannot be used: 2"
    assert f"{source.path}:2" in loaded.notes[1]


def test_one_bad_row_more_than_the_limit_is_refused_with_the_count(data_file, letters):
    with pytest.raises(UserError) as refusal:
        load_examples(Split((data_file(BAD, SHORT, BAD, SHORT, REFUSED),), ALLOWING, 8), letters)
    (found,) = refusal.value.diagnostics
    assert found.code == "GK477"
    assert found.notes[-1] == (
        "2 rows of the file before it are such, and `data.max_bad_rows` is 2"
    )


def test_the_limit_is_each_file_s(data_file, letters):
    sources = [data_file(SHORT, BAD, BAD, name=f"{name}.jsonl") for name in "ab"]
    loaded = load_examples(Split(sources, ALLOWING, 8), letters)
    assert [example.row for example in loaded.examples] == [0, 3]
    assert loaded.file_sizes == (1, 1)


def test_a_row_without_a_response_is_no_bad_row(data_file, letters):
    with pytest.raises(UserError, match="GK478"):
        load_examples(
            Split((data_file({"prompt": "a"}),), ALLOWING, 8, needs_responses=True), letters
        )


def test_a_file_with_a_weight_and_no_rows_left_is_refused(data_file, letters):
    sources = [data_file(SHORT, name="a.jsonl"), data_file(LONG, name="b.jsonl")]
    assert load_examples(Split(sources, PLAN, 8), letters).file_sizes == (1, 0)
    with pytest.raises(UserError, match=r"GK476.*b\.jsonl"):
        load_examples(Split(sources, replace(PLAN, weights=(1.0, 1.0)), 8), letters)
