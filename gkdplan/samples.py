"""What a file of samples says of itself: whose they are, to which rows, and how they were drawn.

The file is JSON Lines: the manifest, then one sample a line. The runtime writes it, facts read it,
and the planner holds it against a plan.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from types import UnionType
from typing import Any, get_args

from gkdplan.vocab import Dtype, Engine, Role

TEXT_VERSION, IMAGES_VERSION = 1, 2
"""Of a file's format: in the second a prompt's fingerprint covers its images."""
MANIFEST = "samples"
"""The only key of the first line."""


@dataclass(frozen=True, slots=True)
class SampledFile:
    """The first `num_rows` rows of a data file; sha256 of the whole file."""

    path: str
    num_rows: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What decides a file's samples.

    `version` says whether fingerprints of prompts cover images: those of models that see do.
    `weights` is `facts.weights.fingerprint`'s; `tokenizer` and `chat_template` (sha256 of its text,
    None without one) are the student's, which renders every prompt. `seed` is `run.seed`: a row's
    seed is that of step 0 (docs/sampling.md).
    """

    version: int
    tool: str
    role: Role
    model: str
    revision: str | None
    weights: str | None
    dtype: Dtype
    tokenizer: str
    chat_template: str | None
    engine: Engine
    temperature: float
    top_p: float
    top_k: int | None
    max_completion_length: int
    seed: int
    max_length: int
    truncation: str
    data: tuple[SampledFile, ...]


class NoManifestError(ValueError):
    """Why a record is no manifest: the text completes a sentence that starts with its place."""


def manifest_record(manifest: Manifest) -> dict[str, Any]:
    """The first line of a file, as JSON values."""
    return {MANIFEST: asdict(manifest)}


def manifest_of(record: object) -> Manifest:
    """The manifest of a first line. Raises NoManifestError where it is not one of this version."""
    content = record.get(MANIFEST) if isinstance(record, Mapping) else None
    if not isinstance(content, Mapping):
        raise NoManifestError("does not begin with what `gkdplan sample` writes")
    if (version := content.get("version")) not in (TEXT_VERSION, IMAGES_VERSION):
        raise NoManifestError(f"has samples of format {version!r}, not of format 1 or 2")
    files = content.get("data")
    if not isinstance(files, list):
        raise NoManifestError("names no data files")
    data = tuple(_read(SampledFile, file) for file in files)
    return _read(Manifest, {**content, "data": data})  # type: ignore[no-any-return]


def prompt_fingerprint(prompt: Sequence[int], images: Iterable[bytes] = ()) -> str:
    """sha256 of the prompt's token ids, in decimal with commas between, and, of each file of an
    image that it shows, of a semicolon and the sha256 of the file, in hexadecimal digits."""
    digest = sha256(",".join(map(str, prompt)).encode())
    for image in images:
        digest.update(f";{sha256(image).hexdigest()}".encode())
    return digest.hexdigest()


def text_fingerprint(text: str | None) -> str | None:
    """sha256 of a text in UTF-8; None of none."""
    return None if text is None else sha256(text.encode(errors="surrogatepass")).hexdigest()


def _read(kind: Any, record: object) -> Any:
    """A dataclass of scalars, each of the type that its field says."""
    if not isinstance(record, Mapping):
        raise NoManifestError("names a data file that is no object")
    names = {field.name: field.type for field in fields(kind)}
    if record.keys() != names.keys():
        wrong = min(record.keys() ^ names.keys())
        raise NoManifestError(f"has a manifest with another set of keys: `{wrong}`")
    return kind(**{name: _value(name, hint, record[name]) for name, hint in names.items()})


def _value(name: str, hint: Any, value: object) -> object:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if name == "data" or type(value) in kinds:
        return value
    for kind in kinds:
        if kind in (Role, Dtype, Engine) and value in list(kind):
            return kind(value)
    raise NoManifestError(f"has a manifest whose `{name}` is {value!r}")
