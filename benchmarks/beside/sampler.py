"""An engine that samples the same prompts each time it is asked, in a process of its own.

    cd benchmarks && python -m beside.sampler transformers|megatron|vllm fp32|bf16

gkdplan's engines are opened as in a run. A line on stdin says how many tokens to add to every
prompt, each the likeliest one, and no token ends a response; a line on stdout says what came of it.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from beside.subject import BEGIN
from beside.workload import MODEL, sampling_plan, sampling_prompts
from gkdplan.cli.compiling import compile_file
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.adapters import merged_tensors
from gkdplan.runtime.megatron.generate import generate
from gkdplan.runtime.megatron.mesh import init_mesh
from gkdplan.runtime.megatron.model import build_chunks
from gkdplan.runtime.megatron.weights import load_weights
from gkdplan.runtime.residency import Residency
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.sampler import open_engine

Rows = list[list[int]]
Sample = Callable[[Rows, int], Rows]
"""From prompts and a number of tokens to responses."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Wall and CPU seconds, and the responses."""

    seconds: float
    cpu_seconds: float
    responses: Rows


def main() -> None:
    engine, dtype = sys.argv[1:]
    sample = transformers(dtype) if engine == "transformers" else gkdplan(engine, dtype)
    prompts = sampling_prompts()
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        responses = sample(prompts, int(line))
        spent = time.perf_counter() - wall, time.process_time() - cpu
        print(BEGIN + json.dumps(asdict(Sampled(*spent, responses))), flush=True)


def transformers(dtype: str) -> Sample:
    from transformers import AutoModelForCausalLM

    of_name = {"fp32": torch.float32, "bf16": torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=of_name[dtype])

    def sample(prompts: Rows, num_tokens: int) -> Rows:
        width = max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        found = model.generate(
            torch.tensor([[0] * n + prompt for n, prompt in zip(padding, prompts, strict=True)]),
            attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in padding]),
            do_sample=False,
            max_new_tokens=num_tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        return found[:, width:].tolist()

    return sample


def gkdplan(engine: str, dtype: str) -> Sample:
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        file = Path(directory, "plan.toml")
        file.write_text(sampling_plan(engine, dtype), encoding="utf-8")
        plan = compile_file(str(file)).require()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    platform.prepare("gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh, model = init_mesh(plan.layout, plan.training.seed), plan.models.student
    student = build_chunks(model, plan.layout.student, mesh, trainable=True)
    load_weights(student, MODEL, model, mesh)
    endless = replace(load_chat(MODEL), eos_id=None, end_of_turn_id=None)
    meter = LiveBytes(mesh.device)
    residency = Residency(mesh.device, meter)
    vllm = open_engine(plan, mesh, endless, MODEL, student, residency, meter, print)
    if vllm is not None:
        vllm.refit(merged_tensors(student, model, mesh), version=0)

    def sample(prompts: Rows, num_tokens: int) -> Rows:
        greedy = replace(plan.sampling, temperature=0.0, max_completion_length=num_tokens)
        seeds = range(len(prompts))
        if vllm is not None:
            requests = [Request(*asked) for asked in zip(prompts, seeds, strict=True)]
            return [list(completion.tokens) for completion in vllm.generate(requests, greedy)]
        vocab_size = plan.models.vocab_size
        return generate(
            student, prompts, seeds, greedy, stop_ids=endless.stop_ids, vocab_size=vocab_size
        )

    return sample


if __name__ == "__main__":
    main()
