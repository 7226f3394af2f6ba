"""What a server may answer of a row, read strictly: the shapes are vLLM's."""

import json
from dataclasses import replace
from math import log

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runplan.models import TeacherAddress, TeacherServer
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.teacher import server_samples
from gkdplan.runtime.teacher.scores import Question, likeliest_of_response
from gkdplan.runtime.teacher.server_samples import ServedSampler

PROMPT, RESPONSE = [7, 8], [5, 6]
HALF, QUARTER, EIGHTH = log(0.5), log(0.25), log(0.125)


def entries(*likeliest: tuple[int, float], own: tuple[int, float]) -> dict:
    """One place: the token's own entry comes first, as in vLLM's answer."""
    return {
        str(token): {"logprob": value, "rank": rank, "decoded_token": "x"}
        for rank, (token, value) in enumerate([own, *likeliest])
    }


def answer(first: dict, second: dict) -> dict:
    prompt = entries((1, HALF), (2, QUARTER), own=(8, EIGHTH))
    return {"choices": [{"prompt_logprobs": [None, prompt, first, second]}]}


def read(given: object, vocab_size: int = 10) -> list | None:
    return likeliest_of_response(
        given, Question(PROMPT, RESPONSE), url="http://t", num_asked=2, top_k=2,
        vocab_size=vocab_size,
    )  # fmt: skip


AMONG = entries((5, HALF), (3, QUARTER), own=(5, HALF))
BEYOND = entries((1, HALF), (3, QUARTER), own=(6, EIGHTH))


def test_the_tokens_own_entry_displaces_none_of_the_likeliest():
    assert read(answer(AMONG, BEYOND)) == [
        [(5, HALF), (3, QUARTER)],
        [(1, HALF), (3, QUARTER)],
    ]


def test_the_likeliest_come_first_whatever_the_order_of_the_answer():
    rising = entries((3, QUARTER), (1, HALF), own=(6, EIGHTH))
    found = read(answer(AMONG, rising))
    assert found is not None
    assert found[1] == [(1, HALF), (3, QUARTER)]


def test_an_id_that_no_token_has_is_not_kept_and_more_are_asked_for():
    unused = entries((12, HALF), (3, QUARTER), own=(6, EIGHTH))
    assert read(answer(AMONG, unused)) is None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None, {}, AMONG]}]},
        answer(AMONG, entries((1, HALF), own=(6, EIGHTH)) | {"6": None}),
        answer(AMONG, entries((1, HALF), own=(1, HALF))),
        answer(AMONG, entries((1, HALF), (3, float("nan")), own=(6, EIGHTH))),
        answer(AMONG, entries((1, -0.1), (3, -0.1), own=(6, EIGHTH))),
        answer(AMONG, entries(own=(6, EIGHTH))),
        answer(AMONG, {"token_id:6": {"logprob": HALF}, "3": {"logprob": HALF}}),
    ],
    ids=[
        "nothing", "no choice", "no scores", "too few places", "no number", "of another row",
        "not a number", "more than 1", "too few ids", "names for ids",
    ],
)  # fmt: skip
def test_what_is_no_answer_to_the_question_is_refused(given):
    with pytest.raises(UserError) as refusal:
        read(json.loads(json.dumps(given)))
    (found,) = refusal.value.diagnostics
    assert found.code == "GK556"
    assert "http://t" in found.message


@pytest.mark.parametrize(
    ("tokens", "code"),
    [([3, 9, 2], None), ([3, 9, 4, 5], None), ([3, 9], "GK557"), ([3, 10, 2], "GK553"),
     ([3, -1, 2], "GK553"), (None, "GK556"), ([], "GK557")],
)  # fmt: skip
def test_a_sample_ends_as_the_plan_says_and_has_its_tokens_only(
    run_plan, monkeypatch, tokens, code
):
    """A stop token is 2, a response has 4 tokens at most, and the vocabulary 10."""
    answered = {"choices": [{"token_ids": tokens}]}
    monkeypatch.setattr(server_samples, "ask_patiently", lambda *asked: answered)
    models = replace(run_plan.models, vocab_size=10)
    server = TeacherServer((TeacherAddress(None, "http://t"),), None, 1.0)
    sampler = ServedSampler(replace(run_plan, models=models), server, frozenset({2}), 0, 1)
    sampling = replace(run_plan.sampling, max_completion_length=4)
    if code is None:
        (completion,) = sampler.generate([Request([1], seed=0)], sampling)
        assert completion.tokens == tuple(tokens)
        return
    with pytest.raises(UserError, match=code):
        sampler.generate([Request([1], seed=0)], sampling)


@pytest.mark.parametrize("num_rows", [1, 7, 8])
def test_ranks_share_the_rows_that_are_asked_for(run_plan, num_rows):
    server = TeacherServer((TeacherAddress(None, "http://t"),), None, 1.0)
    shares = [
        ServedSampler(run_plan, server, frozenset(), rank, 3).share(num_rows) for rank in range(3)
    ]
    assert [place for share in shares for place in share] == list(range(num_rows))
