"""What a row of `messages` may be: a conversation of which the assistant's next turn is learnt."""

from collections.abc import Mapping, Sequence

from gkdplan.contents import contents_of, text_of
from gkdplan.pictures import PictureError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
OF_TOOLS = ("tool_calls", "tool_call_id", "function_call")
"""Keys of a turn that calls a tool, or answers for one."""


def fault_of(row: Mapping[str, object]) -> str | None:
    """Why the row's `messages` are no such conversation, as the end of a sentence that the row
    begins; None where they are.

    A system turn, if any, comes first; the assistant answers a user; the last turn is the user's,
    or the assistant's, which is then the answer. Whether users may speak twice in a row, or a
    system turn may be there at all, is the chat template's to say. Tools are not supported.
    """
    turns = row["messages"]
    if not isinstance(turns, list) or not turns:
        return "has no list of turns as its `messages`"
    if row.get("tools"):
        return "offers `tools`, and tools are not supported"
    for number, turn in enumerate(turns, start=1):
        fault = _fault_of_turn(turn)
        if fault is not None:
            return f"{fault} (turn {number})"
    return _fault_of_order([turn["role"] for turn in turns]) or _fault_of_contents(row)


def is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can hold: JSON may escape half of a surrogate pair."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value


def _fault_of_turn(turn: object) -> str | None:
    if not isinstance(turn, dict):
        return "has a turn without `role` and `content` of text"
    used = next((key for key in OF_TOOLS if turn.get(key)), None)
    if used is not None:
        return f"has a turn with `{used}`, and tools are not supported"
    if turn.get("role") in ("tool", "function"):
        return f"has a turn of the role `{turn['role']}`, and tools are not supported"
    has_parts = isinstance(turn.get("content"), list)
    if not is_text(turn.get("role")) or not (has_parts or is_text(turn.get("content"))):
        return "has a turn without `role` and `content` of text"
    return None


def _fault_of_contents(row: Mapping[str, object]) -> str | None:
    """Of turns in parts, and of the pictures that they show."""
    try:
        contents = contents_of(row)
    except PictureError as failure:
        return str(failure)
    for number, parts in enumerate(contents, start=1):
        if not is_text(text_of(parts)):
            return f"has a turn without `role` and `content` of text (turn {number})"
    return None


def _fault_of_order(roles: Sequence[str]) -> str | None:
    for number, role in enumerate(roles, start=1):
        if role not in (SYSTEM, USER, ASSISTANT):
            known = f"`{SYSTEM}`, `{USER}` and `{ASSISTANT}` are known"
            return f"has a turn of the role `{role[:40]}` (turn {number}): {known}"
        if role == SYSTEM and number > 1:
            return f"has a system turn that is not the first (turn {number})"
        if role == ASSISTANT and (number == 1 or roles[number - 2] != USER):
            return f"has an assistant's turn that answers no user (turn {number})"
    return None if roles[-1] != SYSTEM else "has no user's turn"
