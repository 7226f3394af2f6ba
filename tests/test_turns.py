"""Which rows of messages are conversations, and the words for those that are not."""

import pytest

from gkdplan.turns import fault_of

S, U, A = ({"role": role, "content": "words"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    "turns",
    [[U], [U, A], [S, U], [S, U, A], [U, A, U], [U, A] * 40, [U, U, A], [S, U, U, A, U]],
)
def test_the_assistants_next_turn_is_asked_for_or_is_the_last(turns):
    assert fault_of({"messages": turns}) is None


FAULTS = {
    "list": ([], "has no list of turns"),
    "text": ("hello", "has no list of turns"),
    "no turn": ([U, "hi"], "without `role` and `content` of text (turn 2)"),
    "no content": ([{"role": "user"}], "without `role` and `content` of text (turn 1)"),
    "surrogate": ([{"role": "user", "content": "\ud800"}], "of text (turn 1)"),
    "late system": ([U, A, S, U], "a system turn that is not the first (turn 3)"),
    "two systems": ([S, S, U], "a system turn that is not the first (turn 2)"),
    "system alone": ([S], "has no user's turn"),
    "greeting": ([A, U], "an assistant's turn that answers no user (turn 1)"),
    "assistant after system": ([S, A], "an assistant's turn that answers no user (turn 2)"),
    "two answers": ([U, A, A], "an assistant's turn that answers no user (turn 3)"),
    "unknown role": ([{**U, "role": "critic"}, A], "role `critic` (turn 1): `system`, `user` and"),
    "tool": ([U, A, {**U, "role": "tool"}], "role `tool`, and tools are not supported (turn 3)"),
    "function": ([{**U, "role": "function"}], "`function`, and tools are not supported (turn 1)"),
    "call": (
        [U, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
        "a turn with `tool_calls`, and tools are not supported (turn 2)",
    ),
    "call beside words": (
        [U, {**A, "tool_calls": [{"id": "1"}]}],
        "a turn with `tool_calls`, and tools are not supported (turn 2)",
    ),
    "older call": (
        [U, {**A, "function_call": {"name": "f"}}],
        "a turn with `function_call`, and tools are not supported (turn 2)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_conversation_is_named_with_its_turn(fault):
    turns, reason = FAULTS[fault]
    assert reason in (fault_of({"messages": turns}) or "")


def test_tools_on_offer_are_refused_and_an_empty_list_is_none():
    assert fault_of({"messages": [U, A], "tools": []}) is None
    assert fault_of({"messages": [{**U, "tool_calls": None}, A]}) is None
    assert "offers `tools`" in (fault_of({"messages": [U, A], "tools": [{"name": "f"}]}) or "")
