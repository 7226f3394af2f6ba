"""What no table gives: how much of a device's and a link's peak a step reaches."""

from dataclasses import astuple, dataclass, fields

from gkdplan.runplan.timing import Assumption


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Shares are of the device table's peaks."""

    flop_share: float
    """Of the peak FLOP/s in a forward or backward of many tokens."""
    decode_flop_share: float
    """Of the peak FLOP/s where each row adds one token."""
    memory_share: float
    """Of the memory bandwidth."""
    link_share: float
    """Of a link's bandwidth, in a collective or a transfer between ranks."""
    collective_latency_s: float
    """Of each collective, whatever its size."""
    layer_launch_s: float
    """Host time to launch a layer's forward; a layer never takes less."""


LOW, LIKELY, HIGH = 0, 1, 2
OUTLOOKS = {
    "gloo": (
        Assumptions(0.80, 0.20, 0.80, 0.8, 50e-6, 0.2e-3),
        Assumptions(0.50, 0.10, 0.60, 0.5, 100e-6, 0.5e-3),
        Assumptions(0.25, 0.05, 0.40, 0.3, 200e-6, 1.0e-3),
    ),
    "nccl": (
        Assumptions(0.55, 0.55, 0.85, 0.85, 10e-6, 0.15e-3),
        Assumptions(0.42, 0.42, 0.70, 0.70, 20e-6, 0.30e-3),
        Assumptions(0.28, 0.28, 0.50, 0.50, 40e-6, 0.50e-3),
    ),
}
"""By backend: favourable, likely, unfavourable."""


def assumptions_of(backend: str) -> tuple[Assumption, ...]:
    """Each figure with its three values, for the run plan."""
    low, likely, high = OUTLOOKS[backend]
    names = (field.name for field in fields(Assumptions))
    values = zip(names, astuple(low), astuple(likely), astuple(high), strict=True)
    return tuple(Assumption(*row) for row in values)
