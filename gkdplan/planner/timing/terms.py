"""The names of the seconds of a phase, and the phase of micro-batches in a pipeline.

M micro-batches through p stages of v chunks take M + (p - 1) / v times the slowest stage: the
second part is the bubble (Narayanan et al., "Efficient large-scale language model training on GPU
clusters using Megatron-LM", 2021, section 2.2).
"""

from collections.abc import Callable, Mapping

from gkdplan.planner.timing.stage import Stage
from gkdplan.runplan.layout import AxisDegrees

COMPUTE = "compute"
LOOKING = "images"
RECOMPUTE = "recompute"
LOSS = "loss"
ACCUMULATION = "gradient accumulation"
TENSOR = "tensor communication"
CONTEXT = "exposed context ring"
EXPERT = "expert all-to-all"
PIPELINE = "pipeline transfers"
BUBBLE = "bubble"
DATA = "exposed data communication"
UPDATE = "update"
AVERAGE = "average"
PAYLOAD = "payload exchange"
STREAM = "exposed streaming of weights"

Seconds = Mapping[str, float]


def pipelined(
    stages: tuple[Stage, ...],
    of_micro_batch: Callable[[Stage], Seconds],
    num_micro_batches: int,
    degrees: AxisDegrees,
) -> Seconds:
    """Every micro-batch at the pace of the slowest stage, and the bubble."""
    slowest = max(map(of_micro_batch, stages), key=lambda terms: sum(terms.values()))
    phase = {name: num_micro_batches * seconds for name, seconds in slowest.items()}
    if degrees.pipeline > 1:
        num_idle = (degrees.pipeline - 1) / degrees.virtual_pipeline
        phase[BUBBLE] = num_idle * sum(slowest.values())
    return phase
