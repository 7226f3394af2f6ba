"""The student's tokenizer and chat template: what is a prompt, what is a response, what ends it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer

from gkdplan.diagnostics import UserError, error
from gkdplan.runtime.data.rows import Turn
from gkdplan.runtime.data.templates import PROBE, end_of_turn_id, no_tokenizer, rendering
from gkdplan.runtime.vision.images import Eyes


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer and the ids that matter to training and sampling.

    `eos_id` is the tokenizer's own end of text; `end_of_turn_id` is the token with which the chat
    template closes an assistant turn (None without a template, or where it closes with plain
    text). `pad_id` is the tokenizer's pad token, else its EOS, else 0: padding stands to the right
    of causal attention, or is masked in sampling, so its id reaches no loss. The template of a
    model with `eyes` takes every content in parts; `marks` stand before and after an image's tokens
    where no template writes them. All texts share one int of each id, so that what
    is kept of rows is 8 bytes a token.
    """

    tokenizer: Any
    eos_id: int | None
    end_of_turn_id: int | None
    pad_id: int
    eyes: Eyes | None = None
    marks: tuple[int, ...] = ()
    _ids: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a sampled response."""
        return frozenset(i for i in (self.end_of_turn_id, self.eos_id) if i is not None)

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool) -> str:
        """The chat template's text; the template runs in a sandbox.

        Raises jinja2.TemplateError where the template refuses, or fails in any other way, and
        UserError (GK483) where it does not end.
        """
        with rendering(self.tokenizer.name_or_path):
            return str(
                self.tokenizer.apply_chat_template(
                    self._as_taken(turns),
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                )
            )

    def _as_taken(self, turns: Sequence[Turn]) -> list[Turn]:
        if self.eyes is None:
            return list(turns)
        return [
            {**turn, "content": [{"type": "text", "text": turn["content"]}]}
            if isinstance(turn["content"], str)
            else turn
            for turn in turns
        ]

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids; `special` adds what the tokenizer puts around a text, such as BOS."""
        ids = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return tuple(self._ids.setdefault(id, id) for id in ids)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text; special tokens such as the end of turn are shown only where `special` is set."""
        return str(
            self.tokenizer.decode(
                list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        )


def load_chat(directory: Path, eyes: Eyes | None = None) -> Chat:
    """The chat of the model in `directory`, which sees with `eyes`: no network, no code of the
    model's.

    Raises UserError where no tokenizer can be loaded (GK480), where its chat template does not
    end (GK483), and where it does not show the images of a model that sees, or the tokenizer has no
    marks for them (GK487).
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as failure:
        raise no_tokenizer(directory, failure) from failure
    eos_id = tokenizer.eos_token_id
    pad_id = next(i for i in (tokenizer.pad_token_id, eos_id, 0) if i is not None)
    chat = Chat(tokenizer, eos_id, None, pad_id, eyes)
    if eyes is not None and tokenizer.chat_template:
        _require_images(chat, eyes, directory)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    marks = _marks_of(tokenizer, directory) if eyes is not None and eyes.shape.has_marks else ()
    return Chat(tokenizer, eos_id, end_of_turn_id(chat, special | {eos_id}), pad_id, eyes, marks)


def _marks_of(tokenizer: Any, directory: Path) -> tuple[int, int]:
    """As transformers' processor finds them (models/internvl/processing_internvl.py)."""
    first, last = (getattr(tokenizer, f"{name}_image_token_id", None) for name in ("start", "end"))
    if isinstance(first, int) and isinstance(last, int):
        return first, last
    raise UserError(
        error(
            "GK487",
            f"the tokenizer in `{directory}` does not name the marks around an image",
            "student.model",
            label="its `extra_special_tokens` have no `start_image_token` and `end_image_token`",
            help=("put the tokenizer_config.json of the model into the directory",),
        )
    )


def _require_images(chat: Chat, eyes: Eyes, directory: Path) -> None:
    """A template that takes no parts would drop words or images without a word."""
    content = [{"type": "text", "text": PROBE}, {"type": "image"}]
    try:
        text = chat.render([{"role": "user", "content": content}], generation_prompt=True)
    except TemplateError as failure:
        text = str(failure)
    shows_all = chat.encode(text).count(eyes.shape.image_token_id) == 1 and PROBE in text
    if not shows_all or "'type'" in text:
        raise UserError(
            error(
                "GK487",
                f"the chat template in `{directory}` does not write the parts of a turn",
                "student.model",
                label="of a turn of a text and an image it makes no text with one image token",
                help=("put the chat_template.jinja of the model into the directory",),
            )
        )
