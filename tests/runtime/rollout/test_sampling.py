import math
from collections import Counter

import pytest
import torch

from gkdplan.runtime.rollout import sampling
from gkdplan.runtime.rollout.sampling import row_seed, sample, uniforms

NUM_SAMPLES = 20_000
# Upper 0.1% points of the chi-square distribution by degrees of freedom, from its table.
CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 11: 31.26}

LOGITS = [1.0, -2.0, 0.5, 3.0, 2.0, -1.0, 0.0, 2.5, 1.5, -0.5, 0.25, 1.75]


def reference_distribution(
    logits: list[float], temperature: float, top_p: float, top_k: int | None
) -> dict[int, float]:
    """Temperature, then top_k, then top_p, id by id in Python floats."""
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    weight = {i: math.exp(logits[i] / temperature) for i in ranked}
    total = sum(weight.values())
    kept, mass = [], 0.0
    for i in ranked:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weight[i] / total
    return {i: weight[i] / total / mass for i in kept}


def draw(logits: list[float], num_samples: int, **settings: object) -> list[int]:
    settings = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": None,
        "vocab_size": len(logits),
    } | settings
    seeds = [row_seed(7, 1, row) for row in range(num_samples)]
    logits_BV = torch.tensor(logits).expand(num_samples, -1)
    return sample(logits_BV, uniforms_B=uniforms(seeds, 0), **settings).tolist()


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, None), (0.7, 1.0, None), (1.0, 1.0, 4), (1.3, 0.8, None), (0.9, 0.75, 5)],
)
def test_samples_follow_the_target_distribution(
    temperature: float, top_p: float, top_k: int | None
) -> None:
    expected = reference_distribution(LOGITS, temperature, top_p, top_k)
    drawn = Counter(draw(LOGITS, NUM_SAMPLES, temperature=temperature, top_p=top_p, top_k=top_k))
    assert drawn.keys() == expected.keys()
    chi_square = sum(
        (drawn[i] - NUM_SAMPLES * p) ** 2 / (NUM_SAMPLES * p) for i, p in expected.items()
    )
    assert chi_square < CHI_SQUARE_999[len(expected) - 1]


def test_the_same_holds_where_the_nucleus_exceeds_the_candidates(monkeypatch) -> None:
    whole = draw(LOGITS, 500, top_p=0.8)
    monkeypatch.setattr(sampling, "NUM_CANDIDATES", 2)
    assert draw(LOGITS, 500, top_p=0.8) == whole
    monkeypatch.setattr(sampling, "NUM_CANDIDATES", 9)
    assert draw(LOGITS, 500, top_p=0.8) == whole


def test_temperature_zero_tiny_top_p_and_top_k_one_are_greedy() -> None:
    logits = [0.0, 2.0, 1.0, 2.0]  # ids 1 and 3 tie: the lower wins
    assert set(draw(logits, 200, temperature=0.0)) == {1}
    assert set(draw(logits, 200, top_p=1e-9)) == {1}
    assert set(draw(logits, 200, top_k=1)) == {1}


def test_ties_at_the_edge_keep_the_lower_ids() -> None:
    logits = [1.0, 1.0, 5.0, 1.0, 1.0]
    assert set(draw(logits, 2000, temperature=5.0, top_k=3)) == {0, 1, 2}
    # p(2) = e^0.8 / (e^0.8 + 4) = 0.357, each other 0.161: 0.6 is reached by id 2 and two more
    assert set(draw(logits, 2000, temperature=5.0, top_p=0.6)) == {0, 1, 2}


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.0}, {"top_k": 50}]
)
def test_padding_is_never_sampled(settings: dict[str, float]) -> None:
    padded = [0.0, 1.0, 2.0, 100.0, 100.0]
    assert set(draw(padded, 500, vocab_size=3, **settings)) <= {0, 1, 2}


def test_the_ends_of_the_unit_interval_pick_the_first_and_last_possible_id() -> None:
    logits_BV = torch.tensor([[-torch.inf, 1.0, -torch.inf, 0.5, -torch.inf]])
    last_B = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    first_B = torch.zeros(1, dtype=torch.float64)
    settings = {"temperature": 1.0, "top_p": 1.0, "top_k": None, "vocab_size": 5}
    assert sample(logits_BV, uniforms_B=last_B, **settings).tolist() == [3]
    assert sample(logits_BV, uniforms_B=first_B, **settings).tolist() == [1]


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.7}, {"top_k": 20}, {"temperature": 0.0}])
def test_a_row_is_sampled_alike_in_any_batch(settings: dict[str, float]) -> None:
    settings = {"temperature": 0.9, "top_p": 1.0, "top_k": None, "vocab_size": 300} | settings
    logits_BV = torch.randn(16, 320, generator=torch.Generator().manual_seed(0)) * 3
    seeds = [row_seed(42, 3, row) for row in range(16)]
    together = sample(logits_BV, uniforms_B=uniforms(seeds, 5), **settings)
    backwards = sample(logits_BV.flip(0), uniforms_B=uniforms(seeds[::-1], 5), **settings).flip(0)
    alone = [
        sample(logits_BV[i : i + 1], uniforms_B=uniforms([seeds[i]], 5), **settings)
        for i in range(16)
    ]
    assert together.tolist() == backwards.tolist() == torch.cat(alone).tolist()


def test_uniform_numbers_differ_by_seed_step_row_and_position() -> None:
    keys = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 11, 1), (11, 1, 1)]
    drawn = [
        u
        for position in range(3)
        for u in uniforms([row_seed(*k) for k in keys], position).tolist()
    ]
    assert len(set(drawn)) == len(drawn)
    assert all(0 <= u < 1 for u in drawn)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(
    temperature: float, top_p: float, bad: float
) -> None:
    logits_BV = torch.zeros(3, 4)
    logits_BV[1, 2] = bad
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        sample(
            logits_BV,
            temperature=temperature,
            top_p=top_p,
            top_k=None,
            uniforms_B=torch.zeros(3, dtype=torch.float64),
            vocab_size=4,
        )
