"""How long steps wait for a checkpoint: until it is written, and until it is copied.

    python benchmarks/saving.py [--turns 2]

Each turn takes the same four steps twice, on one process of one thread, with a checkpoint after the
first step: one that is waited for, and one that is written beside the three others, where what is
still to be written after them is waited for too. What the writing takes of the processor's time for
those steps is not part of it.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from beside import workload
from beside.record import Measured, ratio_at_most, record

from gkdplan.cli.compiling import compile_file
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import saving_of
from gkdplan.runtime.executor import Executor
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.opening import open_session
from gkdplan.runtime.phases import Position
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.session import Session
from gkdplan.vocab import Phase

STEPS = range(4, 8)
WAITED, BESIDE = "waited for", "beside"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        session = open_in(Path(directory))
        turns = [take_turn(session) for _ in range(arguments.turns)]
    ratio = statistics.median(turn[BESIDE] / turn[WAITED] for turn in turns)
    seconds = {way: statistics.median(turn[way] for turn in turns) for way in (WAITED, BESIDE)}
    size = saving_of(session.plan.steps).num_bytes / 2**20
    setting = (
        f"SmolLM2-135M-Instruct into 12 of its layers, fp32, a checkpoint of {size:,.0f} MiB, one "
        f"process of 1 thread, medians of {arguments.turns} turns"
    )
    row = Measured(
        "time that steps wait for a checkpoint",
        "s",
        seconds[BESIDE],
        "waited for",
        seconds[WAITED],
        ratio,
        ratio_at_most(0.5),
    )
    record("saving", setting, [row], is_whole=arguments == parser.parse_args([]))


def open_in(directory: Path) -> Session:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    rows = workload.short_rows(workload.BATCH * (STEPS.stop + 1))
    workload.write(directory, rows, [workload.OFF] * (STEPS.stop + 1), "megatron")
    plan = compile_file(str(directory / f"{workload.OFF}.toml")).require()
    Path(plan.training.output).mkdir()
    platform.prepare("gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    silent = Progress(plan, 0, shown=False, terminal=False)
    session = open_session(plan, 0, Position(0, "start"), silent)
    for step in (1, 2):
        Executor(session)._run_step(step)
    return session


def take_turn(session: Session) -> dict[str, float]:
    """Seconds of waiting in each way."""
    seconds = {}
    for way in (WAITED, BESIDE):
        shutil.rmtree(session.directory.checkpoints, ignore_errors=True)
        executor = Executor(replace(session, plan=plan_of(session.plan, way)))
        seconds[way] = 0.0
        for step in STEPS:
            executor._run_step(step)
            seconds[way] += session.phases.seconds.get(Phase.CHECKPOINT, 0.0)
        began_s = time.perf_counter()
        executor.saver.finish()
        seconds[way] += time.perf_counter() - began_s
        print(f"{way:12}{seconds[way]:6.2f} s", flush=True)
    return seconds


def plan_of(plan: RunPlan, way: str) -> RunPlan:
    """The checkpoint is due after the first of the steps."""
    saving = replace(saving_of(plan.steps), interval=STEPS.start)
    training = replace(plan.training, async_save=way == BESIDE)
    return replace(plan, training=training, steps=(*plan.steps[:-1], saving))


if __name__ == "__main__":
    main()
