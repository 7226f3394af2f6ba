"""The teacher's samples of a file, as the steps of a run take them."""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.model import DataSource
from gkdplan.runtime.data.examples import Example
from gkdplan.runtime.samples.prompts import fingerprint_of
from gkdplan.runtime.vision.images import Eyes

KEY = "teacher.samples"
Samples = Mapping[int, Sequence[int]]
"""Responses as ids, by the numbers of their rows."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """How one of `num_ranks` ranks holds the prompts of samples against those of rows: those with
    images, whose files are read for it, it shares with the others. `eyes` are of models that see.
    """

    eyes: Eyes | None = None
    rank: int = 0
    num_ranks: int = 1

    def are_others(self, sample: Any, example: Example) -> bool:
        """Whether the sample answers another prompt, as far as this rank looks; raises UserError
        (GK485) where an image cannot be read."""
        if example.shown and example.row % self.num_ranks != self.rank:
            return False
        return bool(sample.get("prompt_sha256") != fingerprint_of(example, self.eyes))


TEXTS = Prompts()


def take_samples(
    source: DataSource | None,
    examples: Sequence[Example],
    max_tokens: int,
    vocab_size: int,
    prompts: Prompts = TEXTS,
) -> Samples:
    """The response in the file to each example's prompt; none where the plan takes none.

    Raises UserError: GK560 where the file is not the one that the plan was compiled from, GK561
    where a row has no sample there, or one that answers another prompt or that cannot be learnt.
    """
    if source is None:
        return {}
    lines = _read_unchanged(source).splitlines()[1:]
    by_row = {sample.get("row"): sample for sample in map(json.loads, lines)}
    taken = {}
    for example in examples:
        sample = by_row.get(example.row)
        if sample is not None and prompts.are_others(sample, example):
            raise UserError(_unusable(source, example, "has a sample that answers another prompt"))
        taken[example.row] = _response(sample, example, source, max_tokens, vocab_size)
    return taken


def _response(
    sample: Any, example: Example, source: DataSource, max_tokens: int, vocab_size: int
) -> Sequence[int]:
    if sample is None:
        raise UserError(_unusable(source, example, "has no sample"))
    response = sample.get("response")
    if not isinstance(response, list) or not 0 < len(response) <= max_tokens:
        reason = f"has a sample that is not of 1 to {max_tokens:,} tokens"
        raise UserError(_unusable(source, example, reason))
    if not all(type(token) is int and 0 <= token < vocab_size for token in response):
        reason = f"has a sample with an id that is not below {vocab_size:,}"
        raise UserError(_unusable(source, example, reason))
    return array("q", response)


def _read_unchanged(source: DataSource) -> bytes:
    try:
        content = Path(source.path).read_bytes()
    except OSError as failure:
        reason = (failure.strerror or type(failure).__name__).lower()
        raise UserError(_changed(source, f"cannot be read: {reason}")) from failure
    digest = sha256(content).hexdigest()
    if digest != source.fingerprint:
        raise UserError(_changed(source, "changed after the plan was compiled"))
    return content


def _changed(source: DataSource, reason: str) -> Diagnostic:
    return error(
        "GK560",
        f"the samples `{source.path}` {reason}",
        KEY,
        notes=(f"the run plan was compiled from a file of sha256 {source.fingerprint[:12]}",),
        help=("compile the plan again, or put the old file back",),
    )


def _unusable(source: DataSource, example: Example, reason: str) -> Diagnostic:
    return error(
        "GK561",
        f"the row at `{example.location}` {reason} in `{source.path}`",
        KEY,
        label=f"it is row {example.row:,} of the data",
        help=("sample again into another file: `gkdplan sample PLAN --source teacher -o FILE`",),
    )
