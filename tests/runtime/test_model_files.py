"""A model's files: a directory as it is, a cached snapshot as it was checked, else a download."""

from fnmatch import fnmatch
from pathlib import Path

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runtime import model_files
from gkdplan.runtime.model_files import model_directory
from gkdplan.vocab import Role

COMMIT = "a1b2c3"


class Hub:
    """Stands in for the hub and its cache; notes what is downloaded."""

    def __init__(self, snapshot: Path | None) -> None:
        self.snapshot = snapshot
        self.downloads: list[str | None] = []
        self.patterns: list[str] = []

    def snapshot_download(self, model, *, revision, local_files_only=False, allow_patterns=None):
        if local_files_only:
            if self.snapshot is None:
                raise FileNotFoundError(model)
            return str(self.snapshot)
        self.downloads.append(revision)
        self.patterns = allow_patterns
        if model == "org/unknown":
            raise RuntimeError("404:\n  not found")
        return "/downloaded"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Hub:
    made = Hub(None)
    monkeypatch.setattr(model_files, "snapshot_download", made.snapshot_download)
    return made


def test_a_directory_is_taken_as_it_is(hub, tmp_path):
    assert model_directory(Role.TEACHER, str(tmp_path), None) == tmp_path
    assert not hub.downloads


def test_a_cached_snapshot_is_not_fetched_again(hub, tmp_path):
    hub.snapshot = tmp_path / COMMIT
    hub.snapshot.mkdir()
    (hub.snapshot / "model.safetensors").touch()
    assert model_directory(Role.TEACHER, "org/model", None) == hub.snapshot
    assert not hub.downloads


def test_missing_weights_come_from_the_commit_that_was_checked(hub, tmp_path):
    hub.snapshot = tmp_path / COMMIT
    hub.snapshot.mkdir()
    (hub.snapshot / "config.json").touch()
    assert model_directory(Role.TEACHER, "org/model", None) == Path("/downloaded")
    assert hub.downloads == [COMMIT]


def test_of_a_teacher_behind_a_server_no_weights_are_fetched(hub):
    model_directory(Role.TEACHER, "org/model", None, needs_weights=False)
    names = {
        name
        for name in (
            "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
            "chat_template.jinja", "model-00001-of-00002.safetensors", "pytorch_model.bin",
            "model.safetensors.index.json",
        )
        if any(fnmatch(name, pattern) for pattern in hub.patterns)
    }  # fmt: skip
    assert names == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "chat_template.jinja",
    }  # fmt: skip


def test_an_unknown_model_is_refused_with_the_hubs_reason(hub):
    with pytest.raises(UserError) as refused:
        model_directory(Role.STUDENT, "org/unknown", "v2")
    (finding,) = refused.value.diagnostics
    assert (finding.code, finding.path) == ("GK516", "student.model")
    assert finding.notes == ("404: not found",)
    assert hub.downloads == ["v2"]
