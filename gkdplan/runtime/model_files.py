"""Where a model's files lie on this machine."""

from pathlib import Path

from huggingface_hub import snapshot_download

from gkdplan.diagnostics import UserError, error
from gkdplan.vocab import Role

PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model"]


def model_directory(role: Role, model: str, revision: str | None) -> Path:
    """The directory that `model` names, or the hub's snapshot of it, downloaded where missing.

    Raises UserError where there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=PATTERNS))
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
