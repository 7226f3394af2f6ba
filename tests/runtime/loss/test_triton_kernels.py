"""The Triton kernels, compiled for a GPU that need not be there, as far as its machine code.

The interpreter runs what Python allows; this is what Triton's language and ptxas allow.
"""

import os
import subprocess
import sys

COMPILE = """
import sys
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from gkdplan.runtime.loss import triton_bucket_kernels, triton_kernels

BY_NAME = {
    "objective_ptr": "*fp64", "log_probs_ptr": "*fp64", "label_log_totals_ptr": "*fp64",
    "temperature_ptr": "*fp64", "weights_ptr": "*fp32", "label_scales_ptr": "*fp32",
    "labels_ptr": "*i64", "places_ptr": "*i32",
    "num_rows": "i32", "num_entries": "i32", "num_kept": "i32",
    "stride": "i32", "student_stride": "i32", "teacher_stride": "i32", "gradient_stride": "i32",
}
LOGITS = ("student_ptr", "teacher_ptr", "gradient_ptr", "logits_ptr")


def type_of(name, logits):
    if name in LOGITS:
        return "*" + logits
    return BY_NAME.get(name, "*fp32" if name.endswith("_ptr") else "constexpr")


def cubin_of(kernel, logits, **flags):
    names = kernel.arg_names
    signature = {name: type_of(name, logits) for name in names}
    constants = {name: 1 for name in names if name.endswith("column")}
    constants |= {"DTYPE": tl.float32, "TILE": 4096, **flags}
    constants = {(names.index(name),): value for name, value in constants.items()}
    wide = [name for name in names if name.endswith("_ptr") or name.endswith("stride")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in wide}
    source = ASTSource(kernel, signature, constants, attributes)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})


rows, buckets = triton_kernels, triton_bucket_kernels
row = {"floor": -1e4, "small": 0.5, "LABELS": True}
passes = [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
kernels = [cubin_of(rows.mass_kernel, "bf16"), cubin_of(buckets.tail_kernel, "bf16")]
kernels.append(cubin_of(buckets.bucket_gradient_kernel, "fp32", LABELS=True))
for rule, (mass, sums, gradient) in zip((0, 1, 2, 2), passes, strict=True):
    flags = {"RULE": rule, "MASS": mass, "SUMS": sums, "GRADIENT": gradient}
    kernels.append(cubin_of(rows.row_kernel, "bf16", **row, **flags))
for kernel in kernels:
    assert kernel.asm["cubin"]
    assert "ld.global.v4" in kernel.asm["ptx"], "a whole tile is read in vectors"
print(len(kernels))
"""


def test_every_kernel_compiles_for_a_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7\n"
