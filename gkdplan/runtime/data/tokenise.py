"""A row as tokens: the prompt, and the response that the loss is taken on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, assert_never

from jinja2 import TemplateError

from gkdplan.diagnostics import UserError, error
from gkdplan.runtime.data.rows import Row, TextRow, Turn, TurnsRow

if TYPE_CHECKING:
    from gkdplan.runtime.vision.images import Eyes, Shown

Tokens = tuple[int, ...]


class Renderer(Protocol):
    """What makes tokens of a row: `runtime.data.chat.Chat`, or `LightChat` without torch."""

    @property
    def eyes(self) -> "Eyes | None":
        """Those of a model that sees."""

    @property
    def marks(self) -> Tokens:
        """The tokens before and after those of an image, where no template writes them."""

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered."""

    @property
    def eos_id(self) -> int | None:
        """The tokenizer's own end of text."""

    @property
    def end_of_turn_id(self) -> int | None:
        """The token with which the template closes an assistant's turn."""

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool) -> str:
        """The chat template's text."""

    def encode(self, text: str, *, special: bool = False) -> Tokens:
        """Token ids."""


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """`response` is None where the row gives none; `question` is what the user said last; `shown`
    are the pictures whose tokens the prompt holds, in order."""

    prompt: Tokens
    response: Tokens | None
    question: str
    shown: "tuple[Shown, ...]" = ()


def tokenise(row: Row, chat: Renderer, key: str) -> TokenisedRow:
    """The tokens of one row.

    A conversation: the prompt is the rendering of all turns before the last assistant turn with
    the template's generation prompt; the response is what the template puts after it, up to and
    with the end of turn. A text: the prompt with the special tokens that the tokenizer adds to it
    (BOS or none), then the completion, tokenised on its own, and one EOS. The image token of each
    picture stands in the prompt as often as the picture has features.

    Raises UserError naming the row's file and line (GK473 to GK475, GK477, GK481, GK482, GK485 to
    GK487).
    """
    match row:
        case TurnsRow():
            tokenised = _tokenise_turns(row, chat, key)
        case TextRow():
            tokenised = _tokenise_text(row, chat, key)
        case _:
            assert_never(row)
    if chat.eyes is not None:
        tokenised = _with_images(tokenised, row, chat, chat.eyes, key)
    elif isinstance(row, TurnsRow) and row.pictures:
        raise _fault(
            "GK486",
            row,
            key,
            "shows images, and the student sees none",
            help="leave the row out, or take models that see images",
        )
    if not tokenised.prompt:
        raise _fault(
            "GK477",
            row,
            key,
            "has an empty prompt, so nothing predicts its first token",
            help="give the row a prompt, or leave it out",
        )
    return tokenised


def _with_images(
    tokenised: TokenisedRow, row: Row, chat: Renderer, eyes: "Eyes", key: str
) -> TokenisedRow:
    """With as many image tokens as features, between marks where the model has some; elsewhere the
    token may not stand."""
    image_token = eyes.shape.image_token_id
    pictures = row.pictures if isinstance(row, TurnsRow) else ()
    num_tokens = tokenised.prompt.count(image_token)
    if num_tokens != len(pictures) or image_token in (tokenised.response or ()):
        raise _fault(
            "GK487",
            row,
            key,
            f"holds the image token in its texts: {num_tokens} in its prompt, which shows "
            f"{len(pictures)} images",
            help="take the image token out of the texts",
        )
    if num_tokens > eyes.limits.number:
        raise _fault(
            "GK485",
            row,
            key,
            f"shows {num_tokens} images, and at most {eyes.limits.number} are planned for",
            help="raise `data.max_images`, or leave the row out",
        )
    from gkdplan.runtime.vision.images import Shown

    shown = tuple(eyes.measured(Shown(picture, row.location, key)) for picture in pictures)
    before, after = chat.marks[:1], chat.marks[1:]
    images = iter([(*before, *(image_token,) * one.num_tokens, *after) for one in shown])
    prompt = tuple(
        token
        for one in tokenised.prompt
        for token in (next(images) if one == image_token else (one,))
    )
    return replace(tokenised, prompt=prompt, shown=shown)


def _tokenise_turns(row: TurnsRow, chat: Renderer, key: str) -> TokenisedRow:
    if not chat.has_template:
        raise _fault(
            "GK481",
            row,
            key,
            "holds `messages`, but the tokenizer has no chat template",
            help='write {"prompt", "completion"}, or take an instruct model as `student.model`',
        )
    try:
        prompt_text = chat.render(row.turns, generation_prompt=True)
        full_text = (
            chat.render((*row.turns, row.answer), generation_prompt=False) if row.answer else None
        )
    except TemplateError as failure:
        raise _fault(
            "GK473",
            row,
            key,
            f"is refused by the chat template: {failure}",
            help=f"its turns are {_roles(row)}: write what the template allows",
        ) from failure
    prompt = chat.encode(prompt_text)
    if full_text is None:
        return TokenisedRow(prompt, None, row.question)
    response = _response(row, chat, key, (prompt_text, prompt), full_text)
    return TokenisedRow(prompt, response, row.question)


def _response(
    row: TurnsRow, chat: Renderer, key: str, of_prompt: tuple[str, Tokens], full_text: str
) -> Tokens:
    """The tokens that the template puts after the prompt, cut behind the end of turn.

    They are the tail of the full rendering's tokens. Where a token of it runs over the end of the
    prompt, they are the tail of the text, tokenised on its own, as a sampled response is.
    """
    prompt_text, prompt = of_prompt
    if not full_text.startswith(prompt_text):
        raise _fault(
            "GK474",
            row,
            key,
            "is rendered with its answer to a text that its prompt does not begin",
            help="use a chat template that leaves earlier turns as they are when a turn is added",
        )
    full = chat.encode(full_text)
    if full[: len(prompt)] == prompt:
        tail = full[len(prompt) :]
    else:
        tail = chat.encode(full_text.removeprefix(prompt_text))
    if chat.end_of_turn_id not in tail:
        raise _fault(
            "GK475",
            row,
            key,
            "has an answer that the chat template closes with no token",
            help="use a chat template that ends an assistant turn with a special token",
        )
    return tail[: len(tail) - tail[::-1].index(chat.end_of_turn_id)]


def _tokenise_text(row: TextRow, chat: Renderer, key: str) -> TokenisedRow:
    prompt = chat.encode(row.prompt, special=True)
    if row.completion is None:
        return TokenisedRow(prompt, None, row.prompt)
    if chat.eos_id is None:
        raise _fault(
            "GK482",
            row,
            key,
            "has a completion, but the tokenizer names no EOS token",
            help="name the `eos_token` in the student's tokenizer_config.json",
        )
    return TokenisedRow(prompt, (*chat.encode(row.completion), chat.eos_id), row.prompt)


def _roles(row: TurnsRow) -> str:
    turns = row.turns if row.answer is None else (*row.turns, row.answer)
    return ", ".join(turn["role"] for turn in turns)


def _fault(code: str, row: Row, key: str, reason: str, *, help: str) -> UserError:
    return UserError(error(code, f"the row at `{row.location}` {reason}", key, help=(help,)))
