"""Chat histories as prompts: token for token what transformers makes of the same messages."""

import pytest
import tiny

from gkdplan.diagnostics import UserError
from gkdplan.facts.rows import read_data_file
from gkdplan.runplan.model import DataPlan
from gkdplan.runtime.data.examples import Split, load_examples

PLAN = DataPlan(train=(), eval=(), max_length=4096, truncation="error", shuffle=True)

WITH_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + tiny.CHAT_TEMPLATE
)
BEGUN_ONCE = (
    "<|endoftext|>{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}"
    "<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
SYSTEM_IN_THE_FIRST_USER = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content ~ '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ said if loop.first }}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
WITHOUT_EARLIER_THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "plain": tiny.CHAT_TEMPLATE,
    "a default system turn": WITH_DEFAULT_SYSTEM,
    "a beginning of text": BEGUN_ONCE,
    "system words in the first user turn": SYSTEM_IN_THE_FIRST_USER,
    "no thoughts of earlier turns": WITHOUT_EARLIER_THOUGHTS,
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SYSTEM = turn("system", "Answer in one word.")
ROUND = [turn("user", "name a colour: "), turn("assistant", "<think>sky</think>blue")]
HISTORIES = {
    "one question": [turn("user", "what is the sum of two and three?")],
    "a system turn": [SYSTEM, turn("user", "name a dog")],
    "many turns": [*ROUND * 12, turn("user", "and at dusk?")],
    "a system turn and many turns": [SYSTEM, *ROUND * 3, turn("user", "  why?\n\n")],
    "words that look like a turn": [turn("user", "<|im_end|>\n<|im_start|>assistant\n")],
    "scripts": [turn("user", "什么是蓝色? \N{FOX FACE}"), ROUND[1], turn("user", "très bien")],
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_prompt_is_the_whole_history_and_the_answer_its_last_turn(
    tiny_chat, data_file, template
):
    chat = tiny_chat(TEMPLATES[template])
    answered = [[*turns, turn("assistant", "red, I think")] for turns in HISTORIES.values()]
    rows = [*HISTORIES.values(), *answered]
    source = data_file(*({"messages": turns} for turns in rows))
    examples = load_examples(Split((source,), PLAN, 4096), chat).examples
    assert len(examples) == 2 * len(HISTORIES)
    for example, turns in zip(examples, rows, strict=True):
        is_answered = turns[-1]["role"] == "assistant"
        expected = _by_transformers(chat, turns[:-1] if is_answered else turns, prompt=True)
        assert list(example.prompt) == expected
        assert example.question == turns[-2 if is_answered else -1]["content"]
        if is_answered:
            whole = _by_transformers(chat, turns, prompt=False)
            learnt = [*example.prompt, *example.response]
            assert learnt == whole[: len(learnt)]
            assert example.response[-1] == chat.end_of_turn_id
            assert chat.end_of_turn_id not in whole[len(learnt) :]
        else:
            assert example.response is None


def _by_transformers(chat, turns, *, prompt: bool) -> list[int]:
    encoded = chat.tokenizer.apply_chat_template(
        turns, add_generation_prompt=prompt, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])


def test_a_template_that_wants_other_turns_refuses_the_row(tiny_chat, data_file):
    """Users who speak twice are the template's to refuse, and it names the row."""
    strict = (
        "{% for m in messages %}{% if loop.index0 % 2 != (m.role == 'assistant') | int %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}{% endfor %}" + tiny.CHAT_TEMPLATE
    )
    source = data_file({"messages": [turn("user", "a"), turn("user", "b")]})
    with pytest.raises(UserError, match=r"GK473.*rows.jsonl:1.*turns must alternate"):
        load_examples(Split((source,), PLAN, 8), tiny_chat(strict))
    assert load_examples(Split((source,), PLAN, 8), tiny_chat()).examples[0].question == "b"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"messages": [*ROUND, turn("tool", "4")]},
            "a turn of the role `tool`, and tools are not supported (turn 3)",
        ),
        (
            {"messages": [ROUND[0], {**ROUND[1], "tool_calls": [{"id": "1"}]}]},
            "a turn with `tool_calls`, and tools are not supported (turn 2)",
        ),
        ({"messages": ROUND, "tools": [{"name": "f"}]}, "`tools`, and tools are not supported"),
        ({"messages": ROUND[::-1]}, "an assistant's turn that answers no user (turn 1)"),
        ({"messages": [*ROUND, SYSTEM]}, "a system turn that is not the first (turn 3)"),
    ],
)
def test_check_and_run_refuse_a_row_at_its_line(tiny_chat, data_file, row, reason):
    source = data_file({"messages": ROUND}, row)
    with pytest.raises(UserError) as refusal:
        load_examples(Split((source,), PLAN, 8), tiny_chat())
    (of_run,) = refusal.value.diagnostics
    _, (of_check,) = read_data_file(source.path)
    assert (of_run.code, of_check.code) == ("GK472", "GK463")
    for found in (of_run, of_check):
        assert f"{source.path}:2" in found.message
        assert reason in found.message
