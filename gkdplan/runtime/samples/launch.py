"""Sampling from outside: the unfinished file, the ranks, and how it ended."""

import json
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from gkdplan.diagnostics import Diagnostic, UserError, error
from gkdplan.runplan.codec import encode
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.failures import exit_code_of, what_failed
from gkdplan.runtime.interrupts import Interrupted
from gkdplan.runtime.machine.lacking import check_machine, check_samplers, planned_only
from gkdplan.runtime.ranks import start_ranks
from gkdplan.runtime.result import FINISHED, INTERRUPTED, STOPPED_RESUMABLE
from gkdplan.runtime.samples import worker
from gkdplan.runtime.samples.partial import PartialFile, open_partial
from gkdplan.runtime.teacher.server_checks import check_servers
from gkdplan.samples import Manifest
from gkdplan.vocab import Role

GO_ON = ("run the same command again: it goes on with the rows that have no sample yet",)


@dataclass(frozen=True, slots=True)
class SamplesResult:
    """How sampling ended; codes as in `runtime.result.RunResult`.

    `counts` of a finished file: `num_rows`, `num_tokens`, and `num_cut` responses that reached
    `max_completion_length`.
    """

    exit_code: int
    counts: dict[str, int]
    diagnostics: tuple[Diagnostic, ...] = ()


def sample(
    run_plan: RunPlan, manifest: Manifest, drawn_as: Role, renderer: ModelPlan, file: str
) -> SamplesResult:
    """Sample every row with the model that is `drawn_as` in the run plan, on this node's ranks, to
    prompts that `renderer`'s tokenizer and chat template make.

    The file has its name only when it is whole; what an
    earlier call left is gone on with. Raises UserError before any process starts where the plan
    cannot run here or the file cannot be written.
    """
    check_machine(run_plan)
    if run_plan.layout.num_nodes > 1:
        raise UserError(planned_only("cluster.num_nodes", run_plan.layout.num_nodes))
    if drawn_as is Role.TEACHER:
        check_servers(run_plan)
    check_samplers(run_plan)
    with (
        open_partial(Path(file), manifest) as (partial, num_done),
        tempfile.TemporaryDirectory(prefix="gkdplan-") as scratch,
    ):
        try:
            start_ranks(
                worker.main,
                run_plan.layout.devices_per_node,
                run_plan.fingerprint[:12],
                encode(run_plan),
                str(drawn_as),
                (renderer.model, renderer.revision),
                file,
                num_done,
                scratch,
                sys.stderr.isatty(),
            )
        except ChildFailedError as failure:
            return _failed(what_failed(failure, Path(scratch), GO_ON))
        except Interrupted:
            return _stopped_by(signal.SIGINT)
        except SignalException as stop:
            return _stopped_by(stop.sigval)
        counts = _counts(partial)
        partial.finish()
    return SamplesResult(FINISHED, counts)


def _failed(found: tuple[Diagnostic, ...]) -> SamplesResult:
    return SamplesResult(exit_code_of(found), {}, found)


def _stopped_by(number: signal.Signals) -> SamplesResult:
    found = error("GK533", f"sampling was stopped by {number.name}", help=GO_ON)
    exit_code = INTERRUPTED if number is signal.SIGINT else STOPPED_RESUMABLE
    return SamplesResult(exit_code, {}, (found,))


def _counts(partial: PartialFile) -> dict[str, int]:
    counts: Counter[str] = Counter(num_rows=0, num_tokens=0, num_cut=0)
    with partial.path.open(encoding="utf-8", newline="\n") as lines:
        next(lines)
        for sample in map(json.loads, lines):
            counts["num_rows"] += 1
            counts["num_tokens"] += len(sample["response"])
            counts["num_cut"] += sample["finish_reason"] == "length"
    return dict(counts)
