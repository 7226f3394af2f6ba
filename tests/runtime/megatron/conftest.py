"""Random checkpoints of every family, written once."""

from pathlib import Path

import pytest
from tiny_models import TINY, save_tiny


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for name in TINY:
        save_tiny(name, directory)
    return directory
