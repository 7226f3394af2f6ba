"""A tokenizer from its files: token -> id map, end-of-text token, chat template."""

import os
from collections.abc import Mapping

from gkdplan.diagnostics import Diagnostic, error, note
from gkdplan.facts.model import TokenizerFacts
from gkdplan.facts.token_map import (
    SETTINGS_FILE,
    TOKENIZER_FILE,
    TokenMap,
    read_token_map,
    token_text,
    with_later_tokens,
)
from gkdplan.json_file import UnreadableError, read_bytes, read_object
from gkdplan.text import shown

TEMPLATE_FILE = "chat_template.jinja"
MAX_SETTINGS_BYTES = 32 * 2**20


def read_tokenizer(
    directory: str,
    name: str,
    config: Mapping[str, object],
    token_maps: dict[str, TokenMap],
) -> tuple[TokenizerFacts | None, tuple[Diagnostic, ...]]:
    """The tokenizer in a model's directory; None where there is none, or errors.

    The end-of-text token is the tokenizer's own, or else the token of the model's `eos_token_id`.
    `token_maps` keeps what was parsed under the sha256 of the file, so that two models with one
    tokenizer pay once. GK112: a file is unreadable, or names a token that the map lacks; GK113, a
    note: there is no tokenizer.json.
    """
    if not os.path.lexists(os.path.join(directory, TOKENIZER_FILE)):
        message = f"{name} holds no {TOKENIZER_FILE}: its tokenizer was not checked"
        return None, (note("GK113", message, "model"),)
    try:
        tokenizer = _read_files(directory, config, token_maps)
    except UnreadableError as failure:
        return None, (error("GK112", f"{name}/{failure}", "model"),)
    return tokenizer, ()


def _read_files(
    directory: str, config: Mapping[str, object], token_maps: dict[str, TokenMap]
) -> TokenizerFacts:
    settings = _read_settings(directory, SETTINGS_FILE)
    older = _read_settings(directory, "special_tokens_map.json")
    generation = _read_settings(directory, "generation_config.json")
    token_map = with_later_tokens(
        read_token_map(directory, token_maps), settings.get("added_tokens_decoder")
    )
    eos_token = _special_token("eos_token", settings, older)
    if eos_token is None:
        eos_token = _token_of_id(token_map, generation) or _token_of_id(token_map, config)
    pad_token = _special_token("pad_token", settings, older)
    for key, token in (("eos_token", eos_token), ("pad_token", pad_token)):
        if token is not None and token not in token_map.tokens:
            raise UnreadableError(f"{TOKENIZER_FILE} has no token {shown(token)}, the `{key}`")
    return TokenizerFacts(
        tokens=token_map.tokens,
        size=max(token_map.tokens.values()) + 1,
        eos_token=eos_token,
        pad_token=pad_token,
        chat_template=_read_template(directory, settings),
        fingerprint=token_map.fingerprint,
        is_byte_level=token_map.is_byte_level,
    )


def _special_token(key: str, *settings: Mapping[str, object]) -> str | None:
    found = (token_text(file.get(key)) for file in settings)
    return next((token for token in found if token is not None), None)


def _token_of_id(token_map: TokenMap, settings: Mapping[str, object]) -> str | None:
    """The token of `eos_token_id`; of a list of ids, the first."""
    ids = settings.get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    return next((token for token, index in token_map.tokens.items() if index == first), None)


def _read_template(directory: str, settings: Mapping[str, object]) -> str | None:
    """chat_template.jinja; where there is none, tokenizer_config.json's, of several the default."""
    path = os.path.join(directory, TEMPLATE_FILE)
    if os.path.lexists(path):
        try:
            return read_bytes(path, MAX_SETTINGS_BYTES).decode()
        except UnreadableError as failure:
            raise UnreadableError(f"{TEMPLATE_FILE} {failure}") from failure
        except UnicodeDecodeError as failure:
            raise UnreadableError(f"{TEMPLATE_FILE} is not UTF-8 text") from failure
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = [row for row in template if isinstance(row, dict) and row.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


def _read_settings(directory: str, file: str) -> dict[str, object]:
    """The file's object; an empty one where there is no such file."""
    path = os.path.join(directory, file)
    if not os.path.lexists(path):
        return {}
    try:
        return read_object(path, MAX_SETTINGS_BYTES)
    except UnreadableError as failure:
        raise UnreadableError(f"{file} {failure}") from failure
