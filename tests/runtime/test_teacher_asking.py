"""A server that does not answer is asked again for a while, and one failure waits for no other."""

import subprocess
import sys
import time
from itertools import pairwise

import pytest

from gkdplan.diagnostics import UserError
from gkdplan.runtime.http_server import ServerGoneError, ServerRefusedError
from gkdplan.runtime.teacher import asking
from gkdplan.runtime.teacher.asking import Asked, ask_patiently, in_parallel

URL = "http://127.0.0.1:1"
GONE = ServerGoneError("connection refused")


@pytest.fixture
def a_server_that(monkeypatch):
    """A stand-in that fails as it is told, one failure a question, and then answers."""

    def stand_in(*failures: Exception) -> list[float]:
        left, asked_s = list(failures), []

        def ask(server, body):
            asked_s.append(time.monotonic())
            if left:
                raise left.pop(0)
            return {"answer": body}

        monkeypatch.setattr(asking, "ask", ask)
        return asked_s

    return stand_in


def test_a_server_that_comes_back_in_time_has_answered(a_server_that):
    asked_s = a_server_that(GONE, ServerRefusedError(URL, 503, "starting"), GONE)
    assert ask_patiently(URL, Asked({"a": 1}), patience_s=10.0) == {"answer": Asked({"a": 1})}
    assert len(asked_s) == 4
    waits = [later - earlier for earlier, later in pairwise(asked_s)]
    assert waits == sorted(waits), "each wait is longer than the one before"


def test_a_server_that_stays_away_is_named_when_patience_is_over(a_server_that):
    asked_s = a_server_that(*[GONE] * 100)
    with pytest.raises(UserError) as stopped:
        ask_patiently(URL, Asked({}), patience_s=1.0)
    (found,) = stopped.value.diagnostics
    assert found.code == "GK551"
    assert URL in found.message
    assert 2 <= len(asked_s) < 10
    assert asked_s[-1] - asked_s[0] <= 1.0


def test_what_is_refused_is_not_asked_again(a_server_that):
    asked_s = a_server_that(ServerRefusedError(URL, 400, "too long"))
    with pytest.raises(UserError) as stopped:
        ask_patiently(URL, Asked({}), patience_s=10.0)
    (found,) = stopped.value.diagnostics
    assert found.code == "GK552"
    assert "too long" in found.notes[0]
    assert len(asked_s) == 1


def test_answers_come_in_the_order_of_the_questions():
    def slow_at_first(number: int) -> int:
        time.sleep(0.01 * (20 - number))
        return number

    assert in_parallel(slow_at_first, range(20)) == list(range(20))
    assert in_parallel(slow_at_first, []) == []


HANGING = """
import time
from gkdplan.runtime.teacher.asking import in_parallel

def answer(number):
    if number == 0:
        raise RuntimeError("the first fails")
    time.sleep(600)

in_parallel(answer, range(40))
"""


def test_neither_a_failure_nor_the_end_of_the_process_waits_for_the_others():
    ended = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "the first fails" in ended.stderr
