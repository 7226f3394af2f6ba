"""The rows of a run as its ranks take them: of both splits, and the samples of a file."""

from pathlib import Path

from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Draw
from gkdplan.runtime.data.cache.images import chat_with_copies, chat_with_what_is_there
from gkdplan.runtime.data.cache.owned import KeptIn, Tell
from gkdplan.runtime.data.cache.shelf import Shelf
from gkdplan.runtime.data.chat import Chat
from gkdplan.runtime.data.examples import Examples, Split
from gkdplan.runtime.metrics import MetricsLog
from gkdplan.runtime.progress import Progress
from gkdplan.runtime.samples.taken import Prompts, Samples, take_samples
from gkdplan.vocab import Source


def read_rows(
    plan: RunPlan, chat: Chat, student_source: Path, progress: Progress
) -> tuple[Examples, Examples]:
    """Those of `data.train` and of `data.eval`."""
    place = KeptIn.of(plan)
    shelf = Shelf(place.path, place.key, chat, student_source, progress.tell)
    train, held_out = (shelf.examples(split) for split in splits_of(plan))
    for line in train.notes + held_out.notes:
        progress.tell(line)
    return train, held_out


def splits_of(plan: RunPlan) -> tuple[Split, Split]:
    """`data.train` and `data.eval`."""
    data, limit, server = plan.data, plan.sampling.max_completion_length, plan.models.teacher.server
    needs_responses = _learns_from_dataset(plan)
    return (
        Split(data.train, data, limit, "data.train", needs_responses, server),
        Split(data.eval, data, limit, "data.eval", server=server),
    )


def fetch_images(plan: RunPlan, chat: Chat, tell: Tell) -> None:
    """What rows name by address, into the directory in which a run looks for it.

    Raises UserError as `chat_with_copies` does.
    """
    for split in splits_of(plan):
        chat_with_copies(chat, split, KeptIn.of(plan), tell)


def chat_with_fetched_images(plan: RunPlan, chat: Chat) -> Chat:
    """The chat that sees what was fetched for a run of this plan."""
    return chat_with_what_is_there(chat, KeptIn.of(plan))


def samples_of_run(plan: RunPlan, train: Examples, chat: Chat, rank: int) -> Samples:
    """The teacher's in the plan's file, by the numbers of their rows."""
    limit = plan.sampling.max_completion_length
    prompts = Prompts(chat.eyes, rank, plan.layout.world_size)
    return take_samples(plan.data.samples, train.examples, limit, plan.models.vocab_size, prompts)


def log_bad_rows(metrics: MetricsLog, *splits: Examples) -> None:
    for split in splits:
        if split.bad_rows:
            words = f"{len(split.bad_rows):,} rows of `{split.key}` are left out"
            first = split.bad_rows[0].message
            metrics.log_warning(step=0, code="GK490", message=f"{words}: the first, {first}")


def _learns_from_dataset(plan: RunPlan) -> bool:
    draw = Draw(plan.training.seed, plan.objective.lmbda, plan.objective.seq_kd)
    return share_of_sources(draw)[Source.DATASET] > 0
