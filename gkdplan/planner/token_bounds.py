"""How many tokens a text has at least, from the vocabulary alone."""

import unicodedata
from collections.abc import Mapping, Sequence

PIECE = 12
"""Characters up to which a token is looked up at once; longer ones have a table of beginnings."""


def byte_alphabet() -> dict[int, str]:
    """The character that a byte-level vocabulary has for each byte: itself where it is printable
    and no space in Latin-1, else the next free one from 256 on (the byte-level BPE of GPT-2)."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in set(own))
    return {byte: chr(byte) for byte in own} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


class TokenBound:
    """A lower bound for a byte-level vocabulary, whatever its merges are.

    With f(k) the furthest place that k tokens may reach, f(k + 1) is the furthest end of a token
    that begins at any place up to f(k): no segmentation into tokens of the vocabulary is shorter.
    Of a byte that the vocabulary lacks a tokenizer may make nothing. Added tokens are written as
    they are, not in the alphabet.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        alphabet = byte_alphabet()
        self._alphabet = {byte: c if c in tokens else None for byte, c in alphabet.items()}
        odd = set("".join(tokens)).difference(alphabet.values())
        written = [token for token in tokens if not odd.isdisjoint(token)] if odd else []
        self._tokens = {**tokens, **{self._spelt(token): tokens[token] for token in written}}
        self._lengths: dict[str, list[int]] = {}
        for token in self._tokens:
            if len(token) > PIECE:
                self._lengths.setdefault(token[:PIECE], []).append(len(token))

    def least(self, texts: Sequence[str], limit: int) -> int:
        """Tokens of the texts together, at least; not counted further than `limit` + 1.

        Neighbouring texts may share a token.
        """
        num_tokens = 1 - len(texts)
        for text in texts:
            if num_tokens > limit:
                break
            num_tokens += self._least(self._spelt(text), limit + 1 - num_tokens)
        return num_tokens

    def _spelt(self, text: str) -> str:
        """Its bytes in the vocabulary's alphabet, composed as the NFC of some tokenizers does it,
        which is never longer."""
        normal = unicodedata.normalize("NFC", text).encode(errors="replace")
        return normal.decode("latin-1").translate(self._alphabet)

    def _least(self, text: str, most: int) -> int:
        reach = num_tokens = begin = 0
        while reach < len(text) and num_tokens < most:
            ends = (place + self._longest(text, place) for place in range(begin, reach + 1))
            begin, reach = reach + 1, max(ends)
            num_tokens += 1
        return num_tokens

    def _longest(self, text: str, place: int) -> int:
        """Characters of the longest token at a place; a byte is one at least."""
        for length in sorted(self._lengths.get(text[place : place + PIECE], ()), reverse=True):
            if text[place : place + length] in self._tokens:
                return length
        for length in range(PIECE, 1, -1):
            if text[place : place + length] in self._tokens:
                return length
        return 1
