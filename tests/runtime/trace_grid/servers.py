"""Teachers behind servers."""

from trace_grid.models import SMALL_QWEN, SMOL, TINY_DENSE

_SERVER = '[teacher.server]\nurl = "http://127.0.0.1:8000"\ntop_k = {}'
BEHIND = {"payload": "auto", "distill": "loss_temperature = 1.0"}


def behind(top_k: int) -> dict[str, str]:
    return {**BEHIND, "teacher_parallel": _SERVER.format(top_k)}


CONFIGURATIONS = {
    "tiny dense behind a server, tensor 2 pipeline 2": {"models": TINY_DENSE, "tensor": 2}
    | {"pipeline": 2, "num_micro_batches": 4, **behind(8)},
    "tiny dense behind a server, bf16 context 2": {"models": TINY_DENSE, "dtype": "bf16"}
    | {"context": 2, "num_micro_batches": 2, **behind(8)},
    "smol behind a server, data 2": {"models": SMOL, "data": 2, "completion": 320}
    | {"num_micro_batches": 2, **behind(64)},
    "qwen2.5 1.5B to 0.5B behind a server, bf16 tensor 2": {"models": SMALL_QWEN, "tensor": 2}
    | {"dtype": "bf16", "prompt": 480, "completion": 512, **behind(64)},
}
