"""Copies of what addresses gave: files named by their sha256, and a list of which gave which."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import file_digest, sha256
from pathlib import Path

from gkdplan.addresses import AddressError, parse_address
from gkdplan.pictures import Picture

PLACE = "images"
"""Of the copies, in the directory of the tokens of rows."""
LIST, UNFINISHED = "addresses.jsonl", "unfinished"


@dataclass(frozen=True, slots=True)
class Copies:
    """What lies in `directory`; `digests` are by the addresses that gave it, in one spelling. One
    process at a time adds to it."""

    directory: Path
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "Copies":
        """Those that are there, of which none is looked at; of an address the last one counts."""
        return cls(directory, dict(_listed(directory / LIST)))

    def of(self, picture: Picture) -> Picture:
        """The picture with its copy, where it has an address and there is one."""
        if picture.address is None:
            return picture
        try:
            digest = self.digests.get(parse_address(picture.address).url)
        except AddressError:  # reading the picture says so
            return picture
        return picture if digest is None else copy_of(picture, self.directory, digest)

    def add(self, url: str, content: bytes) -> None:
        """A file has its name only when it is whole, and stands in the list only then."""
        digest = sha256(content).hexdigest()
        path, unfinished = path_of(self.directory, digest), self.directory / UNFINISHED / digest
        for folder in (path.parent, unfinished.parent):
            folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
        with (self.directory / LIST).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"address": url, "sha256": digest}) + "\n")
        self.digests[url] = digest

    def tidy(self) -> None:
        """Without what a killed process left unfinished: a file, or a line of the list."""
        shutil.rmtree(self.directory / UNFINISHED, ignore_errors=True)
        path = self.directory / LIST
        if path.is_file():
            text = path.read_bytes()
            if not text.endswith(b"\n"):
                os.truncate(path, text.rfind(b"\n") + 1)


def copy_of(picture: Picture, directory: Path, digest: str) -> Picture:
    """The picture of an address with its copy in the directory."""
    return replace(picture, path=str(path_of(directory, digest)), sha256=digest)


def flaw_of(directory: Path, address: str, digest: str) -> str | None:
    """What is wrong with the copy of what an address gave, if anything is; all of it is read."""
    try:
        with path_of(directory, digest).open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"the copy of `{address}` is gone"
    return None if found == digest else f"the copy of `{address}` is not what was fetched"


def path_of(directory: Path, digest: str) -> Path:
    """Of a copy; a folder holds a 256th of them."""
    return directory / digest[:2] / digest


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    """Addresses and sha256; a line that is none is passed over: what it says is fetched anew."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
                url, digest = str(record["address"]), str(record["sha256"])
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
            if len(digest) == 64 and digest.isalnum():
                yield url, digest
