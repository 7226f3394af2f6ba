"""Which tokens are the prompt and which the response, against string offsets of the rendering."""

import json
import signal
from pathlib import Path

import pytest
import tiny

from gkdplan.diagnostics import UserError
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.rows import TextRow, TurnsRow
from gkdplan.runtime.data.tokenise import tokenise

KEY = "data.train[0]"
ROOT = Path(__file__).parents[3]
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def turns_row(*contents, system=None):
    """A conversation that alternates from the user on; the last content is the answer."""
    turns = [
        {"role": role, "content": content}
        for role, content in zip(["user", "assistant"] * len(contents), contents, strict=False)
    ]
    before = [{"role": "system", "content": system}] if system else []
    return TurnsRow("rows.jsonl:1", (*before, *turns[:-1]), turns[-1])


def rendered_by_hand(row):
    """SmolLM2's format as its model card gives it, without the template."""
    turns = [*row.turns, row.answer]
    if turns[0]["role"] != "system":
        turns = [{"role": "system", "content": DEFAULT_SYSTEM}, *turns]
    return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)


def shipped_conversations():
    for name in ("quickstart", "heldout"):
        for line in (ROOT / "plans" / "data" / f"{name}.jsonl").open(encoding="utf-8"):
            *before, last = json.loads(line).get("messages", [None])
            if last:
                yield TurnsRow(f"{name}.jsonl", tuple(before), last)


def test_the_response_is_what_stands_between_the_generation_prompt_and_the_end_of_turn(
    smollm2_chat,
):
    rows = list(shipped_conversations())
    assert len(rows) > 200
    for row in rows:
        text = rendered_by_hand(row)
        start = text.rindex("<|im_start|>assistant\n") + len("<|im_start|>assistant\n")
        end = text.rindex("<|im_end|>") + len("<|im_end|>")
        encoded = smollm2_chat.tokenizer(text, return_offsets_mapping=True)
        spans = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

        tokenised = tokenise(row, smollm2_chat, KEY)

        assert tokenised.prompt == tuple(i for i, (_, stop) in spans if stop <= start)
        assert tokenised.response == tuple(i for i, (a, b) in spans if start <= a and b <= end)


def test_an_answer_that_merges_with_the_prompt_starts_after_it_as_a_sample_would(smollm2_chat):
    row = turns_row("Poem, please.", "\n\nRoses.")
    newline, two_newlines = smollm2_chat.encode("\n"), smollm2_chat.encode("\n\n")
    assert len(two_newlines) == 1  # written together they are one token, over the boundary
    assert two_newlines[0] in smollm2_chat.encode(rendered_by_hand(row))

    tokenised = tokenise(row, smollm2_chat, KEY)

    assert tokenised.prompt[-1:] == newline
    assert tokenised.response == (*newline, *newline, *smollm2_chat.encode("Roses.<|im_end|>"))


def test_a_system_turn_replaces_the_default_one(smollm2_chat):
    tokenised = tokenise(turns_row("Hi", "Hello", system="Be brief."), smollm2_chat, KEY)
    text = smollm2_chat.decode(tokenised.prompt, special=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_earlier_answers_belong_to_the_prompt(smollm2_chat):
    tokenised = tokenise(turns_row("One?", "1.", "Two?", "2."), smollm2_chat, KEY)
    assert "1.<|im_end|>" in smollm2_chat.decode(tokenised.prompt, special=True)
    assert smollm2_chat.decode(tokenised.response, special=True) == "2.<|im_end|>"
    assert tokenised.question == "Two?"


def test_a_conversation_without_an_answer_has_no_response(smollm2_chat):
    row = TurnsRow("rows.jsonl:1", ({"role": "user", "content": "Hi"},), None)
    tokenised = tokenise(row, smollm2_chat, KEY)
    assert tokenised.response is None
    assert smollm2_chat.decode(tokenised.prompt, special=True).endswith("<|im_start|>assistant\n")


def test_a_completion_is_followed_by_one_eos(smollm2_chat):
    tokenised = tokenise(TextRow("rows.jsonl:1", "2, 4, 8,", " 16"), smollm2_chat, KEY)
    tokenizer = smollm2_chat.tokenizer
    assert tokenizer.decode(tokenised.prompt) == "2, 4, 8,"
    assert tokenizer.decode(tokenised.response) == " 16<|im_end|>"
    assert tokenised.response.count(tokenizer.eos_token_id) == 1


def test_a_prompt_without_a_completion_has_no_response(smollm2_chat):
    assert tokenise(TextRow("rows.jsonl:1", "a", None), smollm2_chat, KEY).response is None


def test_bos_stands_before_a_prompt_where_the_tokenizer_puts_it_and_never_before_a_completion(
    tiny_chat,
):
    from tokenizers.processors import TemplateProcessing

    chat = tiny_chat()
    bos = chat.tokenizer.convert_tokens_to_ids("<|im_start|>")
    chat.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    tokenised = tokenise(TextRow("rows.jsonl:1", "the fox", " jumps"), chat, KEY)
    assert tokenised.prompt == (bos, *chat.encode("the fox"))
    assert tokenised.response == (*chat.encode(" jumps"), chat.eos_id)


def test_a_template_that_opens_an_answer_with_a_block_of_thought_leaves_it_in_the_response(
    tiny_chat,
):
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = tiny_chat(thinking)
    tokenised = tokenise(turns_row("why?", "so"), chat, KEY)
    assert chat.decode(tokenised.prompt, special=True).endswith("<|im_start|>assistant\n")
    response = chat.decode(tokenised.response, special=True)
    assert response == "<think>\n\n</think>\n\nso<|im_end|>"


def test_the_end_of_turn_stops_a_response_and_so_does_another_eos(tiny_chat):
    chat = tiny_chat(eos_token="<|endoftext|>")
    names = chat.tokenizer.convert_ids_to_tokens(sorted(chat.stop_ids))
    assert names == ["<|endoftext|>", "<|im_end|>"]
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id) == "<|im_end|>"


def test_smollm2_stops_and_pads_with_its_end_of_turn(smollm2_chat):
    (end,) = smollm2_chat.encode("<|im_end|>")
    assert smollm2_chat.stop_ids == {end}
    assert smollm2_chat.pad_id == end


def test_padding_is_the_eos_where_the_tokenizer_names_no_pad_token(tiny_chat):
    chat = tiny_chat(pad_token=None)
    assert chat.pad_id == chat.eos_id is not None


def test_decoding_hides_the_end_of_turn_and_keeps_the_words(smollm2_chat):
    tokens = smollm2_chat.encode("It is 5 , she said .<|im_end|>")
    assert smollm2_chat.decode(tokens) == "It is 5 , she said ."


TWISTED = "{% for m in messages %}{{ loop.revindex }}{{ m.content }}<|im_end|>{% endfor %}"
UNCLOSED = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + tiny.CHAT_TEMPLATE
)


@pytest.mark.parametrize(
    ("template", "row", "code"),
    [
        (NO_SYSTEM, turns_row("a", "b", system="c"), "GK473"),
        ("{% for message in messages %}", turns_row("a", "b"), "GK473"),
        ("{{ 1 / 0 }}", turns_row("a", "b"), "GK473"),
        ("{{ ''.__class__.__mro__ }}", turns_row("a", "b"), "GK473"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", turns_row("a", "b"), "GK473"),
        (TWISTED, turns_row("a", "b"), "GK474"),
        (UNCLOSED, turns_row("a", "b"), "GK475"),
        (None, turns_row("a", "b"), "GK481"),
        (tiny.CHAT_TEMPLATE, TextRow("rows.jsonl:1", "", "b"), "GK477"),
    ],
)
def test_what_a_template_cannot_say_is_refused_with_the_row_s_line(tiny_chat, template, row, code):
    with pytest.raises(UserError) as caught:
        tokenise(row, tiny_chat(template), KEY)
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert "rows.jsonl:1" in finding.message
    assert finding.path == KEY
    assert finding.help


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_does_not_end_is_named_and_not_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr("gkdplan.runtime.data.templates.RENDERING_LIMIT_S", 0.1)
    tiny.save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(ENDLESS)
    with pytest.raises(UserError, match="GK483") as caught:
        load_chat(tmp_path)
    (finding,) = caught.value.diagnostics
    assert str(tmp_path) in finding.message
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_rendering_takes_a_small_part_of_its_time(monkeypatch, smollm2_chat):
    monkeypatch.setattr("gkdplan.runtime.data.templates.RENDERING_LIMIT_S", 1.0)
    assert smollm2_chat.render([{"role": "user", "content": "a"}] * 500, generation_prompt=True)


def test_a_completion_needs_an_eos_token(tiny_chat):
    with pytest.raises(UserError, match="GK482"):
        tokenise(TextRow("rows.jsonl:1", "a", "b"), tiny_chat(None, eos_token=None), KEY)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="GK480"):
        load_chat(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"version": "1.0", "model": {'),
        ("tokenizer.json", '{"version": "1.0", "added_tokens": [], "model": {"type": "None"}}'),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, name, content):
    tiny.save_tokenizer(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="GK480"):
        load_chat(tmp_path)


def test_all_rows_share_the_ints_of_their_ids(smollm2_chat):
    chat = smollm2_chat
    first, second = chat.encode("what is two and two?"), chat.encode("what is two and two?")
    assert all(one is other for one, other in zip(first, second, strict=True))
    assert max(first) > 256, "smaller ints are shared by Python itself"
