"""Chat templates: whoever renders them, they may fail, never end, and close a turn with a token."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runtime.data.time_limit import TimeIsUpError, time_limit

if TYPE_CHECKING:
    from gkdplan.runtime.data.tokenise import Renderer

PROBE = "answer"
RENDERING_LIMIT_S = 10.0
"""Of computing, for one conversation: a rendering takes a millisecond."""


@contextmanager
def rendering(directory: str) -> Iterator[None]:
    """A block that renders the template of the tokenizer in `directory`.

    Raises jinja2.TemplateError where the template refuses, or fails in any other way, and UserError
    (GK483) where it does not end.
    """
    try:
        with time_limit(RENDERING_LIMIT_S):
            yield
    except TemplateError:
        raise
    except TimeIsUpError:
        raise UserError(_endless(directory)) from None
    except Exception as failure:
        raise TemplateError(f"{type(failure).__name__}: {failure}") from failure


def end_of_turn_id(chat: "Renderer", special: Collection[int | None]) -> int | None:
    """The first of the `special` tokens that the template writes after an assistant's words."""
    if not chat.has_template:
        return None
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": PROBE}]
    try:
        closing = chat.render(turns, generation_prompt=False).rpartition(PROBE)[2]
    except TemplateError:
        return None
    return next((i for i in chat.encode(closing) if i in special), None)


def _endless(directory: str) -> Diagnostic:
    return error(
        "GK483",
        f"the chat template in `{directory}` had not ended after {RENDERING_LIMIT_S:g} seconds",
        "student.model",
        label="it renders a conversation in a loop that is endless, or as good as endless",
        help=("mend the template: chat_template.jinja, or its key in tokenizer_config.json",),
    )


def no_tokenizer(directory: object, failure: Exception) -> UserError:
    """Why the tokenizer in `directory` was not loaded (GK480)."""
    return UserError(
        error(
            "GK480",
            f"the tokenizer in `{directory}` cannot be loaded",
            "student.model",
            notes=(" ".join(str(failure).split()),),
            help=("put tokenizer.json and tokenizer_config.json beside config.json",),
        )
    )
