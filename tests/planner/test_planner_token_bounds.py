"""Tokens that a text has at least: never more than a tokenizer makes, and close to it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import data_file, facts, plan, tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from gkdplan.facts.prompts import LongestPrompts
from gkdplan.planner.checks.prompts import RULES
from gkdplan.planner.token_bounds import TokenBound, byte_alphabet

ROWS = Path(__file__).parents[2] / "plans" / "data" / "quickstart.jsonl"


def words() -> list[str]:
    rows = map(json.loads, ROWS.read_text(encoding="utf-8").splitlines())
    return [turn["content"] for row in rows for turn in row.get("messages", [])]


@pytest.fixture(scope="module", params=[None, "NFC"])
def trained(request) -> Tokenizer:
    """A byte-level BPE, trained on the shipped rows, with a few long tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.normalizer = normalizers.NFC() if request.param else None
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[
            "<|end|>",
            "<▁end of 终▁>",
            "<|a_special_token_of_many_more_characters|>",
        ],
        show_progress=False,
    )
    made.train_from_iterator([*words(), *["-" * 60] * 50, *[" " * 40 + "x"] * 50], trainer)
    return made


def test_the_alphabet_is_that_of_the_tokenizers_library():
    assert sorted(byte_alphabet().values()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_no_text_has_fewer_tokens_and_prose_has_few_more(trained):
    bound = TokenBound(trained.get_vocab())
    least = {text: bound.least([text], 10**6) for text in words()}
    counted = {text: len(trained.encode(text, add_special_tokens=False).ids) for text in least}
    assert all(least[text] <= counted[text] for text in least)
    assert sum(least.values()) > 0.75 * sum(counted.values())


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["-" * 61, " " * 41, "<|end|>", "<▁end of 终▁>", "é", "e\u0301", "x", "the ", "中"]
        )
    )
)
def test_no_odd_text_has_fewer_tokens(trained, pieces):
    text = "".join(pieces)
    counted = len(trained.encode(text, add_special_tokens=False).ids)
    assert TokenBound(trained.get_vocab()).least([text], 10**6) <= counted


def test_neighbouring_texts_may_share_a_token(trained):
    bound, text = TokenBound(trained.get_vocab()), "the fox jumps"
    assert bound.least([text, text], 99) == 2 * bound.least([text], 99) - 1


def test_no_more_is_counted_than_is_asked(trained):
    bound = TokenBound(trained.get_vocab())
    started_s = time.process_time()
    assert bound.least(["x y z " * 10**5], 50) == 51
    assert time.process_time() - started_s < 0.5


def of_rows(*rows: dict, tokens: dict | None = None, **changes):
    """Facts of a file with these rows, and a tokenizer whose tokens are bytes and "fox"."""
    longest = LongestPrompts()
    for number, row in enumerate(rows, start=1):
        longest.see(f"rows.jsonl:{number}", row)
    bytes_and_fox = [*byte_alphabet().values(), "fox"]
    tokens = tokens or {token: index for index, token in enumerate(bytes_and_fox)}
    made = tokenizer(tokens, **{"is_byte_level": True, **changes})
    file = data_file(longest_prompts=longest.found())
    seen = facts(train=(file,))
    return replace(seen, student=replace(seen.student, tokenizer=made))


def findings(seen, **data):
    chosen = plan(data={"max_length": 8, **data})
    return [finding for rule in RULES for finding in rule(chosen, seen)]


def test_a_prompt_that_is_surely_too_long_is_named_with_its_line():
    seen = of_rows({"prompt": "short"}, {"prompt": "fox " * 5}, {"prompt": "fox"})
    (found,) = findings(seen)
    assert (found.code, found.severity, found.path) == ("GK446", "warning", "data.train[0]")
    assert found.message == "the prompt at rows.jsonl:2 is longer than `data.max_length` 8"
    assert found.notes == ("the words at rows.jsonl:2 are 10 tokens or more",)
    assert found.help == ("raise `data.max_length` to 10 or more",)
    assert "left out" in found.label


@pytest.mark.parametrize(("truncation", "word"), [("left", "beginning"), ("right", "end")])
def test_what_truncation_does_is_said(truncation, word):
    (found,) = findings(of_rows({"prompt": "x" * 9}), truncation=truncation)
    assert (found.code, word in found.label) == ("GK446", True)


def test_where_it_would_stop_the_run_it_is_an_error():
    (found,) = findings(of_rows({"prompt": "x" * 9}), truncation="error")
    assert (found.code, found.severity) == ("GK445", "error")


def test_a_prompt_that_may_fit_is_not_blamed():
    assert findings(of_rows({"prompt": "foxfoxfox" * 2}), truncation="error") == []
    assert findings(of_rows({"prompt": "x" * 8}), truncation="error") == []


def test_of_turns_the_words_count_that_every_template_keeps():
    thought = {"role": "assistant", "content": "x" * 99}
    asked = {"role": "user", "content": "  fox fox \n"}
    assert findings(of_rows({"messages": [asked, thought, asked]})) == []
    told = {"role": "system", "content": "x" * 6}
    (found,) = findings(of_rows({"messages": [told, asked, thought, asked]}))
    assert found.notes == ("the words at rows.jsonl:1 are 10 tokens or more",)


def test_the_longest_few_are_looked_at():
    rows = [{"prompt": "x" * size} for size in (9, 30, 9, 40, 20)]
    (found,) = findings(of_rows(*rows))
    assert found.message.startswith("3 or more prompts, such as at rows.jsonl:4, are longer")


def test_nothing_is_said_of_a_tokenizer_that_does_not_spell_bytes():
    row = {"prompt": "x" * 99}
    assert findings(of_rows(row, is_byte_level=False)) == []
    assert findings(of_rows(row, tokens={"y": 0, "fox": 1})) == []


def test_smollm2_counts_its_shipped_rows_as_the_bound_does():
    directory = Path(__file__).parents[2] / ".cache" / "SmolLM2-135M-Instruct"
    real = Tokenizer.from_file(str(directory / "tokenizer.json"))
    bound = TokenBound(real.get_vocab())
    least = sum(bound.least([text], 10**6) for text in words())
    counted = sum(len(real.encode(text, add_special_tokens=False).ids) for text in words())
    assert 0.99 * counted < least <= counted
