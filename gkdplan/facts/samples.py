"""A file of samples that a plan names: its manifest, and that it is whole."""

from functools import partial
from hashlib import sha256

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.facts.model import SamplesFile
from gkdplan.json_file import UnreadableError, opened, parse
from gkdplan.samples import Manifest, NoManifestError, manifest_of
from gkdplan.text import printable

MAX_LINE_BYTES = 64 * 2**20
HOW = "write one with `gkdplan sample PLAN --source teacher -o FILE`"


def read_samples_file(
    path: str, weights: str | None
) -> tuple[SamplesFile | None, tuple[Diagnostic, ...]]:
    """What the file says of its samples; None with GK440, at "teacher.samples", where it is none.

    `weights` is the fingerprint of the plan's teacher. The samples themselves are read by a run.
    """
    try:
        manifest, num_rows, fingerprint = _read(path)
    except (UnreadableError, NoManifestError) as failure:
        message = f"the samples `{printable(path)}` cannot be taken: the file {failure}"
        return None, (error("GK440", message, "teacher.samples", help=(HOW,)),)
    return SamplesFile(path, manifest, num_rows, fingerprint, weights), ()


def _read(path: str) -> tuple[Manifest, int, str]:
    """The manifest, the number of samples after it, and the sha256 of the file."""
    digest, num_lines, manifest = sha256(), 0, None
    with opened(path) as file:
        for line in iter(partial(file.readline, MAX_LINE_BYTES), b""):
            digest.update(line)
            if manifest is None:
                manifest = manifest_of(parse(line))
            num_lines += line.endswith(b"\n")
    if manifest is None:
        raise NoManifestError("is empty")
    return manifest, num_lines - 1, digest.hexdigest()
