"""What a run's charts say beside their lines."""

import re

import pytest

from gkdplan.report.run_chart import loss_chart
from gkdplan.report.run_record import StepRecord
from gkdplan.vocab import Source


@pytest.mark.parametrize(
    ("losses", "labels"),
    [
        ((3.0, 1.5, 0.0), ["3", "2", "1", "0"]),
        ((0.1929, 0.1948), ["0.1948", "0.1942", "0.1935", "0.1929"]),
        ((0.5, 0.5), ["1.5", "1.17", "0.833", "0.5"]),
    ],
)
def test_the_heights_of_the_axis_can_be_told_apart(losses, labels):
    steps = [_step(number, loss) for number, loss in enumerate(losses, 1)]
    axis = re.search(r'class="y-axis">(.*?)</div>', str(loss_chart(steps)))[1]
    assert re.findall(r"<span>(.*?)</span>", axis) == labels


def _step(number: int, loss: float) -> StepRecord:
    return StepRecord(number, loss, Source.STUDENT, num_tokens=1, seconds={}, peak_bytes={})
