"""The token -> id map of a tokenizer.json, with the tokens that its settings add."""

import os
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from gkdplan.json_file import UnreadableError, parse, read_bytes
from gkdplan.text import shown

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
MAX_FILE_BYTES = 256 * 2**20
MAX_TOKEN_ID = 2**31

# A quote inside a JSON string is escaped, so this can only be a key whose value is a list.
_MERGES = re.compile(rb'"merges"\s*:\s*\[')


@dataclass(frozen=True, slots=True)
class TokenMap:
    """The token -> id map of one tokenizer.json and the sha256 of the map in the order of ids.

    `is_byte_level` where tokens spell the bytes of a text, of which NFC at most is taken before.
    """

    tokens: Mapping[str, int]
    fingerprint: str
    is_byte_level: bool


def read_token_map(directory: str, seen: dict[str, TokenMap]) -> TokenMap:
    """The map of a directory's tokenizer.json.

    `seen` keeps what was parsed under the sha256 of the file, so that two models with one
    tokenizer pay once. Raises UnreadableError.
    """
    try:
        text = read_bytes(os.path.join(directory, TOKENIZER_FILE), MAX_FILE_BYTES)
        digest = sha256(text).hexdigest()
        if digest not in seen:
            file = _parse_without_merges(text)
            tokens = _tokens(file)
            seen[digest] = TokenMap(tokens, _fingerprint(tokens), _is_byte_level(file))
    except UnreadableError as failure:
        raise UnreadableError(f"{TOKENIZER_FILE} {failure}") from failure
    return seen[digest]


def _parse_without_merges(text: bytes) -> object:
    """The file's value; the merges of a BPE model, which no fact needs, may be left out of it.

    They are two thirds of such a file, and the tokenizers library writes them last. A file in
    another order, or one that is cut off, is parsed whole.
    """
    merges = _MERGES.search(text)
    if merges is not None and text[-64:].rstrip().endswith(b"}"):
        try:
            head = parse(text[: merges.start()] + b'"merges": []}}')
        except UnreadableError:
            return parse(text)
        if isinstance(head, dict) and "added_tokens" in head:
            return head
    return parse(text)


def _tokens(file: object) -> dict[str, int]:
    """The model's vocabulary and the added tokens, which win."""
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        raise UnreadableError("has no `model`")
    tokens = _model_tokens(file["model"].get("vocab"))
    added = file.get("added_tokens") or []
    for row in added if isinstance(added, list) else [added]:
        if not isinstance(row, dict) or not isinstance(row.get("content"), str):
            raise UnreadableError("has an added token without `content`")
        tokens[row["content"]] = row.get("id", -1)
    if set(map(type, tokens.values())) != {int}:
        raise UnreadableError("has no tokens, or tokens whose id is not a whole number")
    if min(tokens.values()) < 0 or max(tokens.values()) >= MAX_TOKEN_ID:
        raise UnreadableError(f"has tokens whose id is not between 0 and {MAX_TOKEN_ID:,}")
    return tokens


def _is_byte_level(file: Any) -> bool:
    normalizers = _types_of(file.get("normalizer"))
    return "ByteLevel" in _types_of(file.get("pre_tokenizer")) and normalizers <= {"NFC"}


def _types_of(part: object) -> set[object]:
    """Of a part of a tokenizer, or of the parts of a sequence."""
    if not isinstance(part, dict):
        return set()
    inner = part.get("pretokenizers") or part.get("normalizers") or ()
    parts = inner if part.get("type") == "Sequence" and isinstance(inner, list) else [part]
    return {str(one.get("type")) if isinstance(one, dict) else str(one) for one in parts}


def _model_tokens(vocabulary: object) -> dict[str, int]:
    """A map for BPE, WordPiece and WordLevel; for Unigram the ids are places in a list of pairs."""
    if isinstance(vocabulary, dict):
        return vocabulary
    if not isinstance(vocabulary, list):
        raise UnreadableError("has no vocabulary at `model.vocab`")
    tokens = {}
    for index, piece in enumerate(vocabulary):
        if not isinstance(piece, list) or not piece or not isinstance(piece[0], str):
            raise UnreadableError(f"has no token at place {index} of `model.vocab`")
        tokens[piece[0]] = index
    return tokens


def with_later_tokens(token_map: TokenMap, table: object) -> TokenMap:
    """With what tokenizer_config.json's `added_tokens_decoder` adds: {"id": {"content": token}}.

    Raises UnreadableError where it is damaged or gives a known token another id.
    """
    later: dict[str, int] = {}
    for key, row in (table if isinstance(table, dict) else {}).items():
        token = token_text(row)
        if token is None or not (key.isascii() and key.isdigit() and len(key) < 10):
            raise UnreadableError(f"{SETTINGS_FILE} has a damaged `added_tokens_decoder`")
        known = token_map.tokens.get(token)
        if known is None:
            later[token] = int(key)
        elif known != int(key):
            ids = f"{key}, not {known} as {TOKENIZER_FILE}"
            raise UnreadableError(f"{SETTINGS_FILE} has another id for {shown(token)}: {ids}")
    if not later:
        return token_map
    tokens = {**token_map.tokens, **later}
    return TokenMap(tokens, _fingerprint(tokens), token_map.is_byte_level)


def _fingerprint(tokens: Mapping[str, int]) -> str:
    """Of the ids, the lengths and the text of all tokens, which together fix the map."""
    in_order = sorted(tokens, key=tokens.__getitem__)
    digest = sha256(array("q", map(tokens.__getitem__, in_order)))
    digest.update(array("q", map(len, in_order)))
    digest.update("".join(in_order).encode(errors="surrogatepass"))
    return digest.hexdigest()


def token_text(value: object) -> str | None:
    """A token is written as its text or as an object with the text as `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
