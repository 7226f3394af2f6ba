"""The steps of a workload by gkdplan's executor, on one process.

cd benchmarks && python -m beside.gkdplan_steps WORKLOAD
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from beside.subject import Clock
from beside.workload import OFF, ON, read
from gkdplan.cli.compiling import compile_file
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.opening import open_session
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.step_examples import examples_of_rank


def main() -> None:
    directory = Path(sys.argv[1])
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    plans = {name: compile_file(str(directory / f"{name}.toml")).require() for name in (OFF, ON)}
    work = read(directory)
    first = plans[work.sources[0]]
    output = Path(first.training.output)
    output.mkdir()
    platform.prepare("gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    silent = Progress(first, 0, shown=False, terminal=False)
    session = open_session(first, 0, Position(0, "start"), silent)
    executors = {name: Executor(replace(session, plan=plan)) for name, plan in plans.items()}
    clock = Clock()
    for number, source in enumerate(work.sources, start=1):
        with clock.step(source):
            executors[source]._run_step(number)
    session.metrics.close()
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for number, (step, line) in enumerate(zip(clock.steps, lines, strict=True), start=1):
        metrics, examples = json.loads(line), examples_of_rank(session, number)
        assert metrics["source"] == step.source
        step.loss = metrics["loss"]
        step.num_tokens = metrics["num_tokens"] + sum(len(example.prompt) for example in examples)
    clock.tell()


if __name__ == "__main__":
    main()
