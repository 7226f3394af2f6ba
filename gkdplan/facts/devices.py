"""The device table: what a plan may write at `cluster.device`.

`memory_bytes` is the total that CUDA reports on the device (the figure of its out-of-memory
messages), the smallest seen in public reports, which is below the vendor's round figure. Peak
FLOP/s, memory and link bandwidths are those of NVIDIA's datasheets: dense, not sparse; bf16 on
the tensor cores with fp32 accumulation; fp32 on the CUDA cores, since torch multiplies fp32
matrices without TF32 unless told otherwise. Links are bytes/s in one direction: NVLink is half of
the quoted sum of both, PCIe 4.0 x16 is 32 GB/s, PCIe 5.0 x16 64 GB/s, and the 450 GB/s of
NVLink-C2C are shared by the two GPUs of a GB200. Devices without NVLink talk over PCIe.

The network between nodes is that of the vendor's own system where there is one: a 200 Gb/s adapter
a GPU in a DGX A100, 400 Gb/s in a DGX H100, a DGX B200 and a GB200 tray (whose NVLink beyond the
tray is not counted). Elsewhere it is an assumption: 100 Gb/s a GPU in a server, 10 Gb/s in a
workstation and for a cpu.

`host_memory_bytes_per_node` is that of the vendor's own system where there is one (DGX A100, DGX
H100, DGX B200, a GB200 NVL72 tray), and a modest server or workstation elsewhere.
Half a GiB for the CUDA context and for each NCCL communicator are assumptions on the safe side.

The row "cpu" is one rank on a laptop, a fixed assumption so that a plan compiles alike on every
machine: 8 GiB a rank (`cluster.memory_limit` overrides it), one core with AVX2 at 3 GHz (32 fp32
operations a cycle; bf16 is computed as fp32), half a channel of DDR4-3200, gloo over loopback.
"""

from difflib import get_close_matches

from gkdplan.diagnostics import Diagnostic, error
from gkdplan.facts.model import Device
from gkdplan.text import printable
from gkdplan.vocab import Dtype

_GIB = 2**30
_PCIE_4, _PCIE_5, _C2C = 32, 64, 225  # GB/s in one direction


def _gpu(
    key: str,
    gib: float,
    bf16_tflops: float,
    fp32_tflops: float,
    hbm: float,
    device_link: float,
    host_link: float,
    network: float,
    host_gib: int,
) -> Device:
    """A row whose four bandwidths are in GB/s.

    Measured on one H100 with torch 2.11 and CUDA 13: 0.69 GiB for the context with cuBLAS and the
    kernels of attention, 0.06 GiB for cuBLAS's workspaces; 0.55 GiB for the first communicator of
    one rank and 0.38 GiB for each further one.
    """
    return Device(
        key=key,
        backend="nccl",
        memory_bytes=int(gib * _GIB),
        host_memory_bytes_per_node=host_gib * _GIB,
        peak_flops={Dtype.BF16: bf16_tflops * 1e12, Dtype.FP32: fp32_tflops * 1e12},
        memory_bandwidth=hbm * 1e9,
        device_link_bandwidth=device_link * 1e9,
        host_link_bandwidth=host_link * 1e9,
        network_bandwidth=network * 1e9,
        context_bytes=3 * _GIB // 4,
        communicator_bytes=_GIB // 2,
    )


_CPU = Device(
    key="cpu",
    backend="gloo",
    memory_bytes=8 * _GIB,
    host_memory_bytes_per_node=16 * _GIB,
    peak_flops={Dtype.BF16: 96e9, Dtype.FP32: 96e9},
    memory_bandwidth=12.8e9,
    device_link_bandwidth=4e9,
    host_link_bandwidth=12.8e9,
    network_bandwidth=1.25e9,
    context_bytes=0,
    communicator_bytes=0,
)

# fmt: off
_ROWS = (
    _CPU,
    #    key               GiB  bf16   fp32   HBM   device   host   network  host GiB
    _gpu("a100-40gb",     39.38, 312,  19.5, 1555,     300, _PCIE_4,    25, 1024),
    _gpu("a100-80gb",     79.14, 312,  19.5, 2039,     300, _PCIE_4,    25, 2048),
    _gpu("h100-80gb",     79.10, 989,    67, 3350,     450, _PCIE_5,    50, 2048),
    _gpu("h100-nvl",      93.00, 835,    60, 3900,     300, _PCIE_5,  12.5, 1024),
    _gpu("h200-141gb",   139.72, 989,    67, 4800,     450, _PCIE_5,    50, 2048),
    _gpu("h20-96gb",      95.00, 148,    44, 4000,     450, _PCIE_5,    50, 1024),
    _gpu("b200-192gb",   178.35, 2250,   75, 7700,     900, _PCIE_5,    50, 2048),
    _gpu("gb200",        184.31, 2500,   80, 8000,     900,    _C2C,    50,  894),
    _gpu("l40s-48gb",     44.39, 362,  91.6,  864, _PCIE_4, _PCIE_4,  12.5,  512),
    _gpu("l4-24gb",       22.03, 121,  30.3,  300, _PCIE_4, _PCIE_4,  12.5,  192),
    _gpu("a10-24gb",      21.95, 125,  31.2,  600, _PCIE_4, _PCIE_4,  12.5,  192),
    _gpu("rtx-4090-24gb", 23.52, 165.2, 82.6, 1008, _PCIE_4, _PCIE_4,  1.25,   64),
    _gpu("rtx-5090-32gb", 31.36, 209.5, 104.8, 1792, _PCIE_5, _PCIE_5,  1.25,   64),
)
# fmt: on

DEVICES = {device.key: device for device in _ROWS}


def find_device(key: str) -> tuple[Device | None, tuple[Diagnostic, ...]]:
    """The row of the table; GK120 names the nearest row and all of them."""
    if key in DEVICES:
        return DEVICES[key], ()
    nearest = get_close_matches(key.lower(), DEVICES, n=1, cutoff=0.4)
    unknown = error(
        "GK120",
        f"`{printable(key)}` is not in the device table",
        "cluster.device",
        label="its memory and speed are unknown",
        notes=(f"devices: {', '.join(DEVICES)}",),
        help=tuple(f'write device = "{match}"' for match in nearest),
    )
    return None, (unknown,)
