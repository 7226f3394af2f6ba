"""What makes a checkpoint whole: the length and the sha256 of each of its files."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

NAME = "manifest.json"
Entry = dict[str, Any]
"""{"num_bytes": int, "sha256": hex}."""


def entry_of(file: Path) -> Entry:
    """The file's entry, once its bytes are on the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"num_bytes": os.fstat(opened.fileno()).st_size, "sha256": digest}


def write_manifest(directory: Path, known: Mapping[str, Entry]) -> None:
    """Put into `directory` the manifest of all its files; `known` are entries that were made
    already. Afterwards all of it is on the disk."""
    files = {str(path.relative_to(directory)): path for path in _files(directory)}
    entries = {name: known.get(name) or entry_of(path) for name, path in files.items()}
    manifest = directory / NAME
    text = json.dumps({"files": entries}, indent=2, sort_keys=True) + "\n"
    manifest.write_text(text, encoding="utf-8")
    entry_of(manifest)
    for path in (directory, *directory.rglob("*")):
        if path.is_dir():
            sync_directory(path)


def sync_directory(directory: Path) -> None:
    """Put the names in the directory on the disk."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def flaw(directory: Path, tell: Callable[[int], None] = lambda num_bytes: None) -> str | None:
    """Why the checkpoint in `directory` is not whole, or None where it is: every file of the
    manifest is there with its length and its sha256. Nothing but the manifest is parsed; `tell`
    hears the bytes of each file that was read."""
    try:
        entries = json.loads((directory / NAME).read_text(encoding="utf-8"))["files"]
        files = {directory / name: entry for name, entry in entries.items()}
        expected = {path: (entry["num_bytes"], entry["sha256"]) for path, entry in files.items()}
    except FileNotFoundError:
        return f"it has no {NAME}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {NAME} cannot be read"
    for path, (num_bytes, sha256) in expected.items():
        name = os.path.relpath(path, directory)
        if name.startswith("..") or not path.is_file() or path.is_symlink():
            return f"{name} is not there"
        found = path.stat().st_size
        if found != num_bytes:
            return f"{name} has {found:,} bytes, not {num_bytes:,}"
        if entry_of(path)["sha256"] != sha256:
            return f"{name} has other bytes than those that were saved"
        tell(num_bytes)
    return None


def bytes_in(directory: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in _files(directory))


def _files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.rglob("*")) if path.is_file()]
