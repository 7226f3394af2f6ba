"""The draw of a step's source: the one rule that the outline counts with and the executor obeys."""

from collections import Counter
from hashlib import sha256

from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Source


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1), the same on every machine and rank.

    The first 53 bits of sha256("SEED:STEP"), as a fraction of 2**53: a float64 holds it exactly.
    """
    digest = sha256(f"{seed}:{step}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def source_of_step(draw: Draw, step: int) -> Source:
    """Whose responses step `step` (counted from 1) learns from.

    With u = uniform(seed, step): the student's below lmbda; else the teacher's below
    lmbda + (1 - lmbda) seq_kd; else the dataset's.
    """
    u = uniform(draw.seed, step)
    if u < draw.lmbda:
        return Source.STUDENT
    if u < draw.lmbda + (1 - draw.lmbda) * draw.seq_kd:
        return Source.TEACHER
    return Source.DATASET


def share_of_sources(draw: Draw) -> dict[Source, float]:
    """The probability of each source; they sum to 1."""
    teacher = (1 - draw.lmbda) * draw.seq_kd
    return {
        Source.STUDENT: draw.lmbda,
        Source.TEACHER: teacher,
        Source.DATASET: 1 - draw.lmbda - teacher,
    }


def steps_per_source(draw: Draw, num_steps: int) -> dict[Source, int]:
    """How many of the steps 1..num_steps fall on each source: exact, as the draw is known ahead."""
    counts = Counter(source_of_step(draw, step) for step in range(1, num_steps + 1))
    return {source: counts[source] for source in Source}
