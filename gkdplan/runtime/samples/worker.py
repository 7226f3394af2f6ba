"""The entry point of one rank that samples."""

from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from gkdplan.runplan.codec import decode
from gkdplan.runplan.models import ModelPlan
from gkdplan.runtime.interrupts import end_with_the_launcher
from gkdplan.runtime.phases import Position
from gkdplan.runtime.samples.partial import PartialFile
from gkdplan.runtime.samples.progress import SampleProgress
from gkdplan.runtime.worker import called_to_account, last_words
from gkdplan.vocab import Role


def main(
    lock: str,
    role: str,
    renderer: tuple[str, str | None],
    file: str,
    num_done: int,
    failures: str,
    terminal: bool,
) -> None:
    """Sample what is missing of the unfinished samples of `file`, with `role`'s model, to prompts
    that the tokenizer of `renderer`, a model and its revision, makes.

    A failure is written to `failures`/rank_R.json before it ends the process.
    """
    end_with_the_launcher()
    from gkdplan.runtime.data.chat_of_plan import chat_of_plan
    from gkdplan.runtime.megatron import platform
    from gkdplan.runtime.model_files import model_directory
    from gkdplan.runtime.samples.sampling import sample_rows

    plan = decode(lock)
    position = Position(step=0, phase="start")
    with last_words(failures, position) as rank:
        platform.prepare(plan.layout.backend)
        timeout_s = plan.layout.rendezvous.collective_timeout_s
        dist.init_process_group(plan.layout.backend, timeout=timedelta(seconds=timeout_s))
        with (
            called_to_account(rank, position, timeout_s),
            SampleProgress(shown=rank == 0, terminal=terminal) as progress,
        ):
            partial = PartialFile(Path(file))
            rendering = model_directory(Role.STUDENT, *renderer)
            drawn: ModelPlan = getattr(plan.models, role)
            is_seen_here = drawn.shape.vision is not None and drawn.server is None
            place = (Role(role), drawn.model, drawn.revision)
            drawing = model_directory(*place) if is_seen_here else rendering
            chat = chat_of_plan(plan, rendering, drawing)
            scratch = Path(failures) / "rows"
            sample_rows(plan, Role(role), chat, partial, num_done, position, progress, scratch)
        dist.destroy_process_group()
