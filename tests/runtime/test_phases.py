"""What is timed and measured of a step's phases, and where a rank says that it is."""

import pytest
import torch

from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.phases import Phases, Position
from gkdplan.runtime.progress import Progress
from gkdplan.vocab import Phase


@pytest.fixture
def phases(run_plan) -> Phases:
    silent = Progress(run_plan, 0, shown=False, terminal=False)
    return Phases(Position(0, "start"), silent, LiveBytes(torch.device("cpu")), first_step=1)


def test_what_leaves_before_a_phase_is_timed_but_no_part_of_its_peak(phases):
    with phases.step(1):
        with phases.phase(Phase.TEACHER):
            body = torch.ones(1000)
            payload = torch.ones(10)
        with phases.moves_before(Phase.STUDENT):
            del body
        moved_s = phases.seconds[Phase.STUDENT]
        with phases.phase(Phase.STUDENT):
            activations = payload * 2.0
    assert phases.peak_bytes == {Phase.TEACHER: 4 * 1010, Phase.STUDENT: 4 * 20}
    assert phases.seconds[Phase.STUDENT] > moved_s > 0
    del activations


def test_bytes_are_measured_in_the_first_two_steps_and_every_hundredth(phases):
    measured = []
    for step in (1, 2, 3, 99, 100, 101):
        with phases.step(step), phases.phase(Phase.STUDENT):
            kept = torch.ones(10)
        measured += [step] * bool(phases.peak_bytes)
        del kept
    assert measured == [1, 2, 100]


def test_a_rank_knows_where_it_is_when_it_fails(phases):
    with pytest.raises(FloatingPointError), phases.step(7), phases.phase(Phase.GENERATE):
        raise FloatingPointError
    assert phases.position == Position(7, Phase.GENERATE)
    phases.enter("evaluate")
    assert phases.position == Position(7, "evaluate")
