"""Where a model's files lie on this machine."""

from pathlib import Path

from huggingface_hub import snapshot_download

from gkdplan.diagnostics import UserError, error
from gkdplan.vocab import Role

PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]
WITHOUT_WEIGHTS = ["config.json", "*token*.json", "vocab.json", "*.jinja", "tokenizer.model"]


def model_directory(
    role: Role, model: str, revision: str | None, *, needs_weights: bool = True
) -> Path:
    """The directory that `model` names, or the hub's snapshot of it, downloaded where missing.

    A cached snapshot is what the plan was checked against, so it is taken as it is, and what it
    lacks is fetched from the same commit, not from where the branch has moved since. Where nothing
    `needs_weights`, as of a teacher behind a server, none are fetched.

    Raises UserError (GK516) where there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    cached = _cached_snapshot(model, revision)
    if cached is not None and any(cached.glob("*.safetensors")):
        return cached
    commit = revision if cached is None else cached.name
    patterns = PATTERNS if needs_weights else WITHOUT_WEIGHTS
    try:
        return Path(snapshot_download(model, revision=commit, allow_patterns=patterns))
    except Exception as failure:
        raise UserError(
            error(
                "GK516",
                f"`{model}` is neither a directory nor a model that the hub could give",
                f"{role}.model",
                notes=(" ".join(str(failure).split()),),
                help=("download it first and name its directory",),
            )
        ) from failure


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception:
        return None
