"""What decides the tokens of a split, as a name for the folder that keeps them."""

import json
from dataclasses import asdict
from hashlib import file_digest, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gkdplan import __version__
from gkdplan.runtime.data.examples import Split

FORMAT = 2
"""Of the files in the folder."""
PACKAGES = ("transformers", "tokenizers", "jinja2")
SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Of the files beside a model's weights that say how its texts become tokens."""


def identity_of(split: Split, student: Path) -> str:
    """32 hex digits of a sha256 over the rows' files, the limits of the plan, the files of the
    student's tokenizer in the directory `student`, and the versions of what reads them."""
    record = {
        "format": FORMAT,
        "versions": {"gkdplan": __version__, **{name: version(name) for name in PACKAGES}},
        "student": {path.name: _digest(path) for path in _tokenizer_files(student)},
        "split": _record(split),
    }
    return sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def _record(split: Split) -> dict[str, Any]:
    data, server = split.data, split.server
    return {
        "key": split.key,
        "sources": [asdict(source) for source in split.sources],
        "max_length": data.max_length,
        "truncation": data.truncation,
        "max_bad_rows": data.max_bad_rows,
        "pictures": data.pictures and asdict(data.pictures),
        "max_completion_length": split.max_completion_length,
        "needs_responses": split.needs_responses,
        "teachers": server and (server.column, server.values),
    }


def _tokenizer_files(student: Path) -> list[Path]:
    return sorted(path for path in student.iterdir() if path.suffix in SUFFIXES)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
