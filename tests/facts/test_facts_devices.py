import pytest

from gkdplan.facts.devices import DEVICES, find_device
from gkdplan.vocab import Dtype

GIB = 2**30


def test_the_cpu_row_is_the_same_on_every_machine() -> None:
    device, findings = find_device("cpu")
    assert findings == ()
    assert device is not None
    assert (device.backend, device.memory_bytes) == ("gloo", 8 * GIB)
    assert (device.context_bytes, device.communicator_bytes) == (0, 0)


# NVIDIA's datasheets: A100 80GB 312 TFLOP/s bf16 dense, 2,039 GB/s, NVLink 600 GB/s both ways, PCIe
# 4.0; H100 SXM 989 TFLOP/s dense (1,979 sparse), 3.35 TB/s, NVLink 900 GB/s both ways, PCIe 5.0.
@pytest.mark.parametrize(
    ("key", "bf16", "hbm", "nvlink", "host"),
    [
        ("a100-80gb", 312e12, 2.039e12, 300e9, 32e9),
        ("h100-80gb", 989e12, 3.35e12, 450e9, 64e9),
    ],
)
def test_gpu_rows_hold_datasheet_figures_in_base_units(
    key: str, bf16: float, hbm: float, nvlink: float, host: float
) -> None:
    device, _ = find_device(key)
    assert device is not None
    assert device.backend == "nccl"
    assert device.peak_flops[Dtype.BF16] == pytest.approx(bf16, rel=1e-3)
    assert device.memory_bandwidth == hbm
    assert (device.device_link_bandwidth, device.host_link_bandwidth) == (nvlink, host)


@pytest.mark.parametrize("key", [key for key in DEVICES if key[-2:] == "gb"])
def test_usable_memory_is_below_the_capacity_in_the_name(key: str) -> None:
    capacity = int(key.split("-")[-1].removesuffix("gb"))
    usable = DEVICES[key].memory_bytes
    assert 0.85 * capacity * GIB < usable < capacity * GIB


def test_every_device_computes_in_both_dtypes() -> None:
    for device in DEVICES.values():
        assert set(device.peak_flops) == set(Dtype)
        assert device.peak_flops[Dtype.BF16] >= device.peak_flops[Dtype.FP32] > 0


def test_an_unknown_device_names_the_nearest_and_all() -> None:
    device, (finding,) = find_device("H100-80G")
    assert device is None
    assert (finding.code, finding.path) == ("GK120", "cluster.device")
    assert finding.help == ('write device = "h100-80gb"',)
    assert all(key in finding.notes[0] for key in DEVICES)
