"""Where a model's files lie: a directory, or a snapshot in Hugging Face's local cache.

The cache's layout is huggingface_hub's: models--ORG--NAME/refs/REVISION holds a commit, and
snapshots/COMMIT the files. It is only read; nothing is downloaded.
"""

import os
from difflib import get_close_matches

from gkdplan.facts.known import known_ids

DEFAULT_REVISION = "main"
MAX_COMMIT_BYTES = 64


def find_snapshot(hub_id: str, revision: str | None) -> str | None:
    """The cached snapshot of a model that holds a config.json, or None.

    A revision is a branch, a tag or a full commit.
    """
    repository = f"{_hub_cache()}/models--{hub_id.replace('/', '--')}"
    wanted = revision or DEFAULT_REVISION
    if ".." in wanted.split("/"):
        return None
    commit = _commit_of(f"{repository}/refs/{wanted}") or wanted
    snapshot = f"{repository}/snapshots/{commit}"
    return snapshot if os.path.isfile(f"{snapshot}/config.json") else None


def nearest_model(model: str) -> str | None:
    """What the user may have meant: a model's directory beside the path, or a bundled hub id."""
    for names in (_models_beside(model), known_ids()):
        by_last_part = {_last_part(name): name for name in names}
        for match in get_close_matches(_last_part(model), by_last_part, n=1, cutoff=0.7):
            return by_last_part[match]
    return None


def _last_part(name: str) -> str:
    return name.lower().rstrip("/").split("/")[-1]


def _models_beside(path: str) -> list[str]:
    parent = os.path.dirname(path.rstrip("/"))
    try:
        siblings = sorted(os.listdir(parent or "."))
    except (OSError, ValueError):
        return []
    paths = [os.path.join(parent, sibling) for sibling in siblings]
    return [path for path in paths if os.path.isfile(os.path.join(path, "config.json"))]


def _commit_of(reference: str) -> str | None:
    try:
        with open(reference, encoding="ascii") as file:
            commit = file.read(MAX_COMMIT_BYTES).strip()
    except (OSError, ValueError):
        return None
    return commit if commit.isalnum() else None


def _hub_cache() -> str:
    """HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/..."""
    env = os.environ
    cache_home = env.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = env.get("HF_HOME") or os.path.join(cache_home, "huggingface")
    cache = env.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return os.path.expanduser(os.path.expandvars(cache))
