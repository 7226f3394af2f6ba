"""Each step as a verb and a sentence: the outline prints what the executor runs."""

from typing import assert_never

from gkdplan.report.objective import SOURCE_NAMES
from gkdplan.report.words import average, plural
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.steps import (
    AskTeacher,
    Await,
    Checkpoint,
    Draw,
    Evaluate,
    Generate,
    GenerateAhead,
    Move,
    OptimizerStep,
    Refit,
    Reshard,
    Step,
    StudentStep,
    TakeSamples,
    TeacherForward,
)
from gkdplan.units import format_bytes, format_seconds
from gkdplan.vocab import Engine, Role, Tier

_MOVE_VERBS = {
    (Tier.HOST, Tier.DEVICE): "fetch",
    (Tier.DROPPED, Tier.DEVICE): "build",
    (Tier.DEVICE, Tier.HOST): "return",
    (Tier.DROPPED, Tier.HOST): "build",
    (Tier.DEVICE, Tier.DROPPED): "drop",
    (Tier.HOST, Tier.DROPPED): "drop",
}


def verb(step: Step) -> str:
    """The one word that names a step."""
    match step:
        case Draw():
            return "draw"
        case Refit():
            return "refit"
        case Generate():
            return "generate"
        case GenerateAhead():
            return "ahead"
        case TakeSamples():
            return "take"
        case Move():
            is_early = step.due is not None and step.to_tier is Tier.DEVICE
            return "prefetch" if is_early else _MOVE_VERBS[step.from_tier, step.to_tier]
        case Await():
            return "await"
        case TeacherForward() | AskTeacher():
            return "teacher"
        case Reshard():
            return "reshard"
        case StudentStep():
            return "student"
        case OptimizerStep():
            return "optimizer"
        case Evaluate():
            return "evaluate"
        case Checkpoint():
            return "checkpoint"
        case _:
            assert_never(step)


def sentence(step: Step) -> str:
    """What a step does."""
    match step:
        case Draw():
            return draw_rule(step)
        case Refit():
            return (
                f"the student's weights to vllm, {format_bytes(step.num_bytes)} in buckets of "
                f"{format_bytes(step.bucket_bytes)}, if the student samples"
            )
        case Generate():
            prompts = plural(step.rows_per_rank, "prompt")
            length = plural(step.max_completion_length, "token")
            who = f"the {step.role} samples {prompts} a rank {_by(step)}"
            return f"{who}, at most {length}, if drawn"
        case GenerateAhead():
            prompts = plural(step.num_rows, "prompt")
            return (
                f"weights to vllm in buckets of {format_bytes(step.bucket_bytes)}, which then "
                f"samples the next step's {prompts} while this one trains, if its draw falls "
                "on the student"
            )
        case TakeSamples():
            prompts = plural(step.rows_per_rank, "prompt")
            return f"the {step.source}'s samples of {prompts} a rank from {step.path}, if drawn"
        case Move():
            cost = f"{format_bytes(step.num_bytes)}, {duration(step)}{_hidden(step)}"
            return f"{step.object} from {step.from_tier} to {step.to_tier}: {cost}"
        case Await():
            return f"the copy of {step.object}"
        case TeacherForward():
            kept = f"{step.payload} [{step.max_tokens:,}, {step.width:,}]"
            streamed = (
                f", {format_bytes(step.streamed_bytes)} streamed from the host"
                if step.streamed_bytes
                else ""
            )
            return f"{step.num_micro_batches} x forward{streamed}, keeps {kept}"
        case AskTeacher():
            rows = plural(step.num_rows, "response")
            kept = f"top_k [{step.max_tokens:,}, {step.top_k:,}]"
            urls = " or ".join(step.urls)
            return f"{urls} scores {rows} a rank, keeps {kept}; its seconds are not predicted"
        case Reshard():
            size = format_bytes(step.num_bytes)
            return f"{step.payload} from where the teacher ends to the loss, <= {size} a rank"
        case StudentStep():
            return f"{step.num_micro_batches} x forward, loss, backward"
        case OptimizerStep():
            clip = f"gradients clipped at {step.clip_grad:g}" if step.clip_grad else "no clipping"
            decay = step.ema_decay
            averaged = f"; then the teacher becomes {average(decay)}" if decay is not None else ""
            return f"{step.name}, lr {step.schedule}, {clip}{averaged}"
        case Evaluate():
            each = f", {_each(step.interval)}" if step.interval else ""
            rows = plural(step.num_rows, "held-out row")
            answers = f", {step.num_samples:,} answered" if step.num_samples else ""
            return f"JSD and cross-entropy on {rows}{answers}: before step 1{each}, at the end"
        case Checkpoint():
            each = f"{_each(step.interval)}, " if step.interval else ""
            size = format_bytes(step.num_bytes)
            beside = ", written beside the steps that follow" if step.is_beside else ""
            when = f"{each}at the end; {step.keep} newest stay"
            return f"student and training state, {size}{beside}: {when}"
        case _:
            assert_never(step)


def _by(step: Generate) -> str:
    """What carries it out."""
    is_behind_a_server = step.role is Role.TEACHER and step.engine is Engine.VLLM
    return "behind its server" if is_behind_a_server else f"by {step.engine}"


def duration(move: Move) -> str:
    """Seconds of the copy; a move without one only frees what lies on the other tier too."""
    return format_seconds(move.seconds) if move.seconds else "no copy"


def exposed(move: Move) -> str:
    """Seconds of the copy in which nothing else runs."""
    if not move.seconds:
        return "-"
    return format_seconds(move.exposed_s) if move.exposed_s > 0 else "0 s"


def _hidden(move: Move) -> str:
    if move.due is None:
        return ""
    return f", {exposed(move)} exposed; complete before {move.due}"


def _each(interval: int) -> str:
    return "each step" if interval == 1 else f"each {plural(interval, 'step')}"


def draw_rule(draw: Draw) -> str:
    """How a number u in [0, 1) picks the source of a step."""
    present = [(source, share) for source, share in share_of_sources(draw).items() if share > 0]
    *rest, (last, _) = present
    if not rest:
        return f"every step learns from {SOURCE_NAMES[last]}"
    limit, clauses = 0.0, []
    for source, share in rest:
        limit += share
        clauses.append(f"{SOURCE_NAMES[source]} if u < {limit:g}")
    return f"u from (seed, step): {', '.join(clauses)}, else {SOURCE_NAMES[last]}"
