"""The rows of a run as its ranks take them: of both splits, and the samples of a file."""

from pathlib import Path

from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.runtime.data.cache.shelf import Shelf
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Examples, Split
from gkdplan.runtime.metrics import MetricsLog
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.samples.taken import Samples, take_samples
from gkdplan.runtime.saved.run_directory import RunDirectory
from gkdplan.vocab import Source


def read_rows(
    plan: RunPlan, directory: RunDirectory, chat: Chat, student_source: Path, progress: Progress
) -> tuple[Examples, Examples]:
    """Those of `data.train` and of `data.eval`."""
    data, limit, server = plan.data, plan.sampling.max_completion_length, plan.models.teacher.server
    place, key = (data.cache, "data.cache") if data.cache else (directory.rows, "run.output")
    shelf = Shelf(Path(place), key, chat, student_source, progress.tell)
    needs_responses = _learns_from_dataset(plan)
    train = shelf.examples(Split(data.train, data, limit, "data.train", needs_responses, server))
    held_out = shelf.examples(Split(data.eval, data, limit, "data.eval", server=server))
    for line in train.notes + held_out.notes:
        progress.tell(line)
    return train, held_out


def samples_of_run(plan: RunPlan, train: Examples) -> Samples:
    """The teacher's in the plan's file, by the numbers of their rows."""
    limit = plan.sampling.max_completion_length
    return take_samples(plan.data.samples, train.examples, limit, plan.models.vocab_size)


def log_bad_rows(metrics: MetricsLog, *splits: Examples) -> None:
    for split in splits:
        if split.bad_rows:
            words = f"{len(split.bad_rows):,} rows of `{split.key}` are left out"
            first = split.bad_rows[0].message
            metrics.log_warning(step=0, code="GK490", message=f"{words}: the first, {first}")


def _learns_from_dataset(plan: RunPlan) -> bool:
    draw = Draw(plan.training.seed, plan.objective.lmbda, plan.objective.seq_kd)
    return share_of_sources(draw)[Source.DATASET] > 0
