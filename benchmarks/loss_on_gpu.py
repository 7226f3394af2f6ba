"""The loss on one GPU: right, and how far from the floor.

    python benchmarks/loss_on_gpu.py [--tokens 4096] [--vocab 151936]

It needs torch and triton only. First every backend is held against the definition in float64; then
medians of `triton.testing.do_bench` are printed beside the time that the bytes alone take (both
logits read and the gradient written once, at the speed of a copy on the device) and beside the
formula as libraries write it, with autograd's gradient. `$OUT/loss_on_gpu.json` receives all
figures. Exit code 1 where a backend misses the definition.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
import triton
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from triton.testing import do_bench

from gkdplan.runtime.loss import TopK, jsd_linear, jsd_logits, triton_rows

DEVICE = torch.device("cuda")
BACKENDS = ("eager", "triton")
"""The compiled backend comes last and at one objective only: it compiles for seconds a graph."""

EVERY_OBJECTIVE = tuple(
    itertools.product((0.0, 0.1, 0.5, 1.0), (1.0, 2.0), ("logits", "sft", "top_k", "top_k sft"))
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, {"fp32": 1e-5, "bf16": 1e-3}
"""Relative; of a gradient in the norm, in bf16 beside the exact one rounded to bf16."""
STUDENT_HIDDEN, TEACHER_HIDDEN, CHUNK_TOKENS = 2048, 4096, 1024
K, SFT_ALPHA = 64, 0.7
TILINGS = ((4096, 8), (8192, 8), (8192, 16), (2048, 4), (2048, 8), (4096, 16), (16384, 16))
SECONDS_UNTIL_NO_NEW_TILING = 60.0


def definition(
    student_NV: Tensor, teacher: Tensor | TopK, beta: float, temperature: float
) -> Tensor:
    """Token losses [N], float64."""
    log_q = log_softmax(student_NV.double() / temperature, dim=-1)
    if isinstance(teacher, TopK):
        log_p, ids = teacher.log_buckets(), teacher.ids_NK.long()
        tail_N1 = log_q.scatter(1, ids, -math.inf).logsumexp(dim=1, keepdim=True)
        log_q = torch.cat([log_q.gather(1, ids), tail_N1], dim=1)
    else:
        log_p = log_softmax(teacher.double() / temperature, dim=-1)
    q, p = log_q.exp(), log_p.exp()
    if beta == 0.0:
        return (p * (log_p - log_q)).sum(dim=1)
    if beta == 1.0:
        return (q * (log_q - log_p)).sum(dim=1)
    log_m = (beta * p + (1 - beta) * q).log()
    return (beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)).sum(dim=1)


def plain_formula(student_NV: Tensor, teacher_NV: Tensor, weights_N: Tensor, beta: float) -> Tensor:
    """The divergence as libraries write it, in float32."""
    log_q = log_softmax(student_NV.float(), dim=-1)
    log_p = log_softmax(teacher_NV.float(), dim=-1)
    if beta == 0.0:
        losses_NV = kl_div(log_q, log_p, reduction="none", log_target=True)
    elif beta == 1.0:
        losses_NV = kl_div(log_p, log_q, reduction="none", log_target=True)
    else:
        parts = torch.stack([log_q + math.log1p(-beta), log_p + math.log(beta)])
        log_m = torch.logsumexp(parts, dim=0)
        losses_NV = beta * kl_div(log_m, log_p, reduction="none", log_target=True)
        losses_NV = losses_NV + (1 - beta) * kl_div(log_m, log_q, reduction="none", log_target=True)
    return (losses_NV.sum(dim=-1) * weights_N).sum()


def draw(num_tokens: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Student's logits, teacher's, and the weights of a mean, in which the second token is not."""
    student_NV, teacher_NV = torch.randn(2, num_tokens, vocab, device=DEVICE).mul_(2).to(dtype)
    weights_N = torch.full((num_tokens,), 1 / num_tokens, device=DEVICE)
    weights_N[1] = 0.0
    return student_NV, teacher_NV, weights_N


def likeliest_of(teacher_NV: Tensor, temperature: float) -> TopK:
    log_p = log_softmax(teacher_NV.double() / temperature, dim=-1)
    found, ids = log_p.topk(K, dim=1)
    return TopK(ids, found, log_p.scatter(1, ids, -math.inf).logsumexp(dim=1))


def misses(
    backend: str, name: str, vocab: int, objectives: Iterable[tuple[float, float, str]]
) -> list[dict[str, object]]:
    """Errors of every objective from the same draw, each with whether it is a miss."""
    student_NV, teacher_NV, weights_N = draw(16, vocab, DTYPES[name])
    labels_N = torch.randint(vocab, (16,), device=DEVICE)
    found = []
    for beta, temperature, kind in objectives:
        teacher = likeliest_of(teacher_NV, temperature) if "top_k" in kind else teacher_NV
        alpha = SFT_ALPHA if "sft" in kind else 0.0
        exact_NV = student_NV.double().requires_grad_()
        losses_N = definition(exact_NV, teacher, beta, temperature)
        if alpha:
            losses_N = losses_N + alpha * cross_entropy(exact_NV, labels_N, reduction="none")
        expected = (losses_N * weights_N).sum()
        (expected_gradient,) = torch.autograd.grad(expected, exact_NV)
        expected_gradient = expected_gradient.to(DTYPES[name]).double()
        for inplace in (False, True):
            logits_NV = student_NV.clone()
            logits_NV[1] = math.nan  # the token that does not count
            logits_NV.requires_grad_()
            loss = jsd_logits(
                logits_NV,
                teacher,
                weights_N,
                beta=beta,
                temperature=temperature,
                labels=labels_N,
                sft_alpha=alpha,
                inplace=inplace,
                backend=backend,
            )
            (gradient,) = torch.autograd.grad(loss, logits_NV)
            loss_error = abs(float(loss.detach()) / float(expected.detach()) - 1.0)
            gap = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
            is_miss = not (loss_error < LOSS_TOLERANCE and float(gap) < GRADIENT_TOLERANCE[name])
            case = {"backend": backend, "dtype": name, "vocab": vocab, "beta": beta}
            case |= {"temperature": temperature, "kind": kind, "inplace": inplace}
            case |= {"loss": loss_error, "gradient": float(gap), "is_miss": is_miss}
            found.append(case)
    return found


def check(
    backend: str, vocab: int, objectives: Iterable[tuple[float, float, str]] = EVERY_OBJECTIVE
) -> list[dict[str, object]]:
    cases = []
    for name, width in itertools.product(DTYPES, (vocab, 1_009)):
        found = misses(backend, name, width, objectives)
        worst = {key: max(float(case[key]) for case in found) for key in ("loss", "gradient")}
        num_misses = sum(bool(case["is_miss"]) for case in found)
        print(
            f"{backend:9} {name}  V {width:7,}  {len(found)} cases, {num_misses} miss;"
            f"  worst loss {worst['loss']:.1e}, gradient {worst['gradient']:.1e}",
            flush=True,
        )
        cases += found
    return cases


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """The median, and the peak above what was there before in GB."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    return float(do_bench(work, warmup=10, rep=60, return_mode="median")), peak


def row(name: str, work: Callable[[], object], floor: float) -> dict[str, object]:
    median, peak = milliseconds(work)
    print(f"{name:52}{median:10.3f} ms{median / floor:8.2f}x{peak:9.2f} GB", flush=True)
    return {"name": name, "ms": median, "times_floor": median / floor, "peak_gb": peak}


def gradient_of(work: Callable[..., Tensor], *tensors: Tensor, wrt: int = 1, **options: object):
    """Loss and gradients of the first tensors, as a training step takes them."""
    torch.autograd.grad(work(*tensors, **options), tensors[:wrt])


def stored_logits(
    backends: Iterable[str], tokens: int, vocab: int, betas: Iterable[float] = (0.0, 0.5, 1.0)
) -> list[dict[str, object]]:
    rows = []
    for name, dtype in DTYPES.items():
        tensors = student_NV, *_ = draw(tokens, vocab, dtype)
        target_NV = torch.empty_like(student_NV)
        copy_ms, _ = milliseconds(partial(target_NV.copy_, student_NV))
        floor, speed = 1.5 * copy_ms, 2 * student_NV.nbytes / copy_ms / 1e6
        print(f"\n{name} logits: a copy runs at {speed:,.0f} GB/s, so the floor is {floor:.3f} ms")
        rows.append({"name": f"{name} floor", "ms": floor, "copy_gb_s": speed})
        del target_NV
        student_NV.requires_grad_()
        for beta in betas:
            plain = partial(gradient_of, plain_formula, *tensors, beta=beta)
            rows.append(row(f"{name} beta {beta} plain formula", plain, floor))
            for backend, inplace in itertools.product(backends, (False, True)):
                options = {"beta": beta, "backend": backend, "inplace": inplace}
                ours = partial(gradient_of, jsd_logits, *tensors, **options)
                where = " in place" if inplace else ""
                rows.append(row(f"{name} beta {beta} {backend}{where}", ours, floor))
    return rows


def output_heads(backends: Iterable[str], tokens: int, vocab: int) -> list[dict[str, object]]:
    """bf16 hidden states and heads, beside the products that the loss cannot do without."""
    hidden, teacher_hidden = (
        torch.randn(tokens, width, device=DEVICE).bfloat16()
        for width in (STUDENT_HIDDEN, TEACHER_HIDDEN)
    )
    head, teacher_head = (
        torch.randn(vocab, width, device=DEVICE).mul_(2 * width**-0.5).bfloat16()
        for width in (STUDENT_HIDDEN, TEACHER_HIDDEN)
    )
    weights_N = torch.full((tokens,), 1 / tokens, device=DEVICE)
    tensors = hidden.requires_grad_(), head.requires_grad_(), teacher_hidden, teacher_head

    @torch.no_grad()
    def products() -> None:
        total_VH = torch.zeros(head.shape, device=DEVICE)
        for chunk in torch.arange(tokens, device=DEVICE).split(CHUNK_TOKENS):
            gradient_CV = (hidden[chunk] @ head.t()).add_(teacher_hidden[chunk] @ teacher_head.t())
            torch.mm(gradient_CV, head)
            total_VH += torch.mm(gradient_CV.t(), hidden[chunk])

    def whole(hidden: Tensor, head: Tensor, *rest: Tensor) -> Tensor:
        logits_NV, teacher_NV = hidden @ head.t(), teacher_hidden @ teacher_head.t()
        return plain_formula(logits_NV, teacher_NV, weights_N, 0.5)

    floor, _ = milliseconds(products)
    print(f"\noutput heads of {STUDENT_HIDDEN} and {TEACHER_HIDDEN}, bf16; products {floor:.3f} ms")
    rows = [{"name": "heads products", "ms": floor}]
    rows.append(row("heads plain formula", partial(gradient_of, whole, *tensors, wrt=2), floor))
    for backend in backends:
        options = {"beta": 0.5, "backend": backend, "chunk_tokens": CHUNK_TOKENS}
        ours = partial(gradient_of, jsd_linear, *tensors, weights_N, wrt=2, **options)
        rows.append(row(f"heads jsd_linear {backend}", ours, floor))
    return rows


def tilings(tokens: int, vocab: int, until: float) -> list[dict[str, object]]:
    """The Triton backend with other tiles, until time is up."""
    rows, own = [], (triton_rows.TILE, triton_rows.NUM_WARPS)
    print("\ntiles of the triton backend, beta 0.5")
    for name, dtype in DTYPES.items():
        tensors = student_NV, *_ = draw(tokens, vocab, dtype)
        student_NV.requires_grad_()
        for tile, num_warps in TILINGS:
            if time.monotonic() > until:
                print("time is up")
                return rows
            triton_rows.TILE, triton_rows.NUM_WARPS = tile, num_warps
            work = partial(gradient_of, jsd_logits, *tensors, beta=0.5, backend="triton")
            median, _ = milliseconds(work)
            print(f"{name} {tile:6} entries, {num_warps:2} warps{median:10.3f} ms", flush=True)
            rows.append({"name": name, "tile": tile, "num_warps": num_warps, "ms": median})
        triton_rows.TILE, triton_rows.NUM_WARPS = own
    return rows


def compiled_backend(tokens: int, vocab: int, until: float) -> list[dict[str, object]]:
    """Held and timed at beta 0.5, if there is time for its compilation."""
    if time.monotonic() > until:
        print("no time for the compiled backend")
        return []
    cases = check("compiled", vocab, [(0.5, 1.0, "logits")])
    return cases + stored_logits(["compiled"], tokens, vocab, betas=[0.5])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=151936)
    arguments = parser.parse_args()
    sizes = arguments.tokens, arguments.vocab
    started = time.monotonic()
    torch.manual_seed(0)
    title = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    )
    print(f"{title}; {sizes[0]} tokens, vocabulary {sizes[1]:,}")
    results: dict[str, object] = {"machine": title, "tokens": sizes[0], "vocab": sizes[1]}
    parts: dict[str, Callable[[], list[dict[str, object]]]] = {
        "eager": partial(check, "eager", sizes[1]),
        "triton": partial(check, "triton", sizes[1]),
        "logits": partial(stored_logits, BACKENDS, *sizes),
        "heads": partial(output_heads, BACKENDS, *sizes),
        "tilings": partial(tilings, *sizes, started + SECONDS_UNTIL_NO_NEW_TILING),
        "compiled": partial(compiled_backend, *sizes, started + SECONDS_UNTIL_NO_NEW_TILING),
    }
    is_miss = False
    for name, part in parts.items():
        rows = results[name] = part()
        is_miss = is_miss or any(row.get("is_miss") for row in rows)
        torch.cuda.empty_cache()
        print(f"[{time.monotonic() - started:.1f} s]", flush=True)
        if out := os.environ.get("OUT"):
            (Path(out) / "loss_on_gpu.json").write_text(json.dumps(results, indent=1))
    return int(is_miss)


if __name__ == "__main__":
    sys.exit(main())
