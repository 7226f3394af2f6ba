from hashlib import sha256

import pytest

from gkdplan.runplan.draw import share_of_sources, source_of_step, steps_per_source, uniform
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Source


def test_uniform_is_the_first_53_bits_of_the_digest():
    # echo -n 42:1 | sha256sum : its first 14 hex digits are 56 bits; drop 3
    digest = sha256(b"42:1").hexdigest()
    assert uniform(42, 1) == (int(digest[:14], 16) >> 3) / 2**53


def test_uniform_is_pinned_so_that_old_runs_resume():
    # echo -n 42:1 | sha256sum -> 03ddf851127d6cfe..., as a fraction of 2**64: 0.0151057432...
    assert uniform(42, 1) == pytest.approx(0.0151057432, abs=1e-10)


def test_uniform_fills_the_interval_evenly():
    num_draws, num_bins = 20_000, 20
    counts = [0] * num_bins
    for step in range(num_draws):
        counts[int(uniform(7, step) * num_bins)] += 1
    expected = num_draws / num_bins
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_squared < 43.8  # the 99.9% point of 19 degrees of freedom


def test_neighbouring_steps_and_seeds_are_uncorrelated():
    num_draws = 10_000
    pairs = [
        [(uniform(3, n), uniform(3, n + 1)) for n in range(num_draws)],
        [(uniform(n, 3), uniform(n + 1, 3)) for n in range(num_draws)],
    ]
    for xs in pairs:
        covariance = sum((x - 0.5) * (y - 0.5) for x, y in xs) / num_draws
        assert abs(covariance * 12) < 4 / num_draws**0.5  # 4 standard errors of a correlation


def test_shares_follow_lmbda_then_seq_kd():
    draw = Draw(seed=11, lmbda=0.5, seq_kd=0.4)
    assert share_of_sources(draw) == pytest.approx(
        {Source.STUDENT: 0.5, Source.TEACHER: 0.2, Source.DATASET: 0.3}
    )
    num_steps = 10_000
    counts = steps_per_source(draw, num_steps)
    assert sum(counts.values()) == num_steps
    for source, share in share_of_sources(draw).items():
        standard_error = (num_steps * share * (1 - share)) ** 0.5
        assert abs(counts[source] - num_steps * share) < 4 * standard_error


@pytest.mark.parametrize(
    ("lmbda", "seq_kd", "only"),
    [
        (1.0, 0.0, Source.STUDENT),
        (1.0, 1.0, Source.STUDENT),
        (0.0, 1.0, Source.TEACHER),
        (0.0, 0.0, Source.DATASET),
    ],
)
def test_the_ends_of_the_mixture_are_certain(lmbda, seq_kd, only):
    counts = steps_per_source(Draw(seed=5, lmbda=lmbda, seq_kd=seq_kd), 500)
    assert counts[only] == 500


def test_the_boundary_belongs_to_the_next_source():
    u = uniform(1, 1)
    assert source_of_step(Draw(1, lmbda=u, seq_kd=0.0), 1) is Source.DATASET
    assert source_of_step(Draw(1, lmbda=u, seq_kd=1.0), 1) is Source.TEACHER
    assert source_of_step(Draw(1, lmbda=u + 1e-9, seq_kd=0.0), 1) is Source.STUDENT
