"""A chat of the tokenizers package alone: neither torch nor transformers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from gkdplan.runtime.data.rows import Turn
from gkdplan.runtime.data.templates import end_of_turn_id, no_tokenizer, rendering


@dataclass(frozen=True, slots=True)
class LightChat:
    """What `runtime.data.chat.Chat` makes of a row, it makes too, for models that see no images."""

    tokenizer: Tokenizer
    template: Any
    special_tokens: dict[str, str]
    directory: str
    eos_id: int | None
    end_of_turn_id: int | None = None
    eyes: None = None
    marks: tuple[int, ...] = ()

    @property
    def has_template(self) -> bool:
        return self.template is not None

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool) -> str:
        """As `Chat.render`."""
        with rendering(self.directory):
            return str(
                self.template.render(
                    messages=list(turns),
                    tools=None,
                    documents=None,
                    add_generation_prompt=generation_prompt,
                    **self.special_tokens,
                )
            )

    def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """As `Chat.encode`."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=special).ids)


def load_light_chat(directory: str, template: str | None, eos_token: str | None) -> LightChat:
    """The chat of the model in `directory`, whose template and EOS were looked up.

    Raises UserError (GK480) where its tokenizer.json cannot be loaded, or its template is none.
    """
    try:
        tokenizer = Tokenizer.from_file(str(Path(directory, "tokenizer.json")))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        compiled = None if not template else _environment().from_string(template)
        named = _special_tokens(Path(directory, "tokenizer_config.json"))
    except Exception as failure:
        raise no_tokenizer(directory, failure) from failure
    if eos_token is not None:
        named["eos_token"] = eos_token
    eos_id = None if eos_token is None else tokenizer.token_to_id(eos_token)
    chat = LightChat(tokenizer, compiled, named, directory, eos_id)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return replace(chat, end_of_turn_id=end_of_turn_id(chat, special | {eos_id}))


def _special_tokens(path: Path) -> dict[str, str]:
    """Those that a template may name: `bos_token` and others."""
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {}
    for key, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            found[key] = text
    return found


class _Generation(Extension):
    """`{% generation %}` marks what an assistant says, and writes nothing itself."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _as_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _as_json(value: object, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
