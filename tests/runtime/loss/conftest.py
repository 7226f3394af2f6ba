"""The same tests hold every backend of the loss: eager in every run, the others with the grid."""

from collections.abc import Iterator

import pytest

from gkdplan.runtime.loss import backend as backends
from gkdplan.vocab import LossBackend

EVERY_BACKEND = [
    LossBackend.EAGER,
    pytest.param(LossBackend.COMPILED, marks=pytest.mark.grid),
    pytest.param(LossBackend.TRITON, marks=pytest.mark.grid),
]


@pytest.fixture(params=EVERY_BACKEND)
def every_backend(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LossBackend]:
    """What is asked of the loss without a backend is done by this one."""
    monkeypatch.setitem(backends.DEFAULT_BACKEND, "cpu", request.param)
    return request.param
