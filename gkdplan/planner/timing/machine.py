"""What a rank achieves: the device table's peaks times the assumed shares."""

from dataclasses import dataclass

from gkdplan.facts.model import Device
from gkdplan.planner.timing.assumptions import Assumptions
from gkdplan.vocab import Dtype


@dataclass(frozen=True, slots=True)
class Machine:
    """One device of a node, under one set of assumptions."""

    device: Device
    devices_per_node: int
    assumed: Assumptions

    def compute_s(self, flops: float, dtype: Dtype) -> float:
        """Of a forward or backward of many tokens."""
        return flops / (self.device.peak_flops[dtype] * self.assumed.flop_share)

    def decode_s(self, flops: float, dtype: Dtype) -> float:
        """Of a forward of one token a row."""
        return flops / (self.device.peak_flops[dtype] * self.assumed.decode_flop_share)

    def memory_s(self, num_bytes: float) -> float:
        """Of bytes read from or written to the device's memory."""
        return num_bytes / (self.device.memory_bandwidth * self.assumed.memory_share)

    def link_s(self, num_bytes: float, span: int) -> float:
        """Of bytes that a rank sends within `span` consecutive ranks: over the links of a node, or
        over the network where the span is wider."""
        return num_bytes / (self.bandwidth(span) * self.assumed.link_share)

    def collective_s(self, num_bytes: float, size: int, span: int) -> float:
        """An all-gather, a reduce-scatter or an all-to-all of a tensor of `num_bytes` over `size`
        ranks: a ring sends (size - 1) / size of it. An all-reduce is two of them."""
        if size == 1:
            return 0.0
        sent = num_bytes * (size - 1) / size
        return self.link_s(sent, span) + self.assumed.collective_latency_s

    def bandwidth(self, span: int) -> float:
        """Peak bytes/s of the link that `span` consecutive ranks share."""
        if span <= self.devices_per_node:
            return self.device.device_link_bandwidth
        return self.device.network_bandwidth
