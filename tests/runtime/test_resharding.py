"""Which rank gives which states to which: every state that is needed once, from one that has it."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gkdplan.runplan.layout import AxisDegrees, Place
from gkdplan.runtime.data.batch import Row
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.teacher.resharding import Piece, Resharding
from gkdplan.vocab import Payload

NUM_RANKS, NUM_MICRO_BATCHES, WIDTH = 8, 8, 24
LAYOUTS = st.sampled_from(
    [
        AxisDegrees(tensor, tensor > 1, data, pipeline=pipeline, context=context)
        for tensor in (1, 2, 4, 8)
        for context in (1, 2, 4)
        for pipeline in (1, 2, 4)
        for data in (1, 2, 4, 8)
        if tensor * context * pipeline * data == NUM_RANKS
    ]
)


def batches_of(seed: int) -> list[list[Row]]:
    """Two rows of any length in each micro-batch; every token of its own number."""
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 9), draw.randint(0, 9)) for _ in range(2 * NUM_MICRO_BATCHES)]
    rows = [Row([0] * prompt, [0] * response) for prompt, response in lengths]
    return [rows[i : i + 2] for i in range(0, len(rows), 2)]


def states_of(deal: Deal, k: int, rank: int, payload: Payload) -> torch.Tensor:
    """What a rank of a model's last stage holds: state (n, w) is 1000 n + w."""
    place = deal.degrees.place_of(rank)
    tokens = torch.tensor(deal.response_tokens(k)[place.context], dtype=torch.int64)
    whole = 1000 * tokens[:, None] + torch.arange(WIDTH)
    return whole.chunk(deal.degrees.tensor, 1)[place.tensor] if payload is LOGITS else whole


LOGITS = Payload.LOGITS


@settings(max_examples=60, deadline=None)
@given(LAYOUTS, LAYOUTS, st.sampled_from([Payload.HIDDEN, LOGITS]), st.integers(0, 10**6))
def test_every_loss_gets_its_states_once(teacher, student, payload, seed):
    batches = batches_of(seed)
    deals = Deal(teacher, batches), Deal(student, batches)
    resharding = Resharding(*deals, payload, WIDTH, torch.int64)
    for k in range(NUM_MICRO_BATCHES):
        pieces = list(resharding.pieces(k))
        for rank in range(NUM_RANKS):
            shape = resharding.shape(k, rank)
            mine = [piece for piece in pieces if piece.target == rank]
            if shape is None:
                assert not mine
                continue
            expected = states_of(deals[1], k, rank, payload)
            found, times = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
            for piece in mine:
                _assert_holds(piece, teacher, k)
                found[piece.put] = states_of(deals[0], k, piece.source, payload)[piece.taken]
                times[piece.put] += 1
            assert torch.equal(found, expected)
            assert (times == 1).all()


def _assert_holds(piece: Piece, teacher: AxisDegrees, k: int) -> None:
    """The source is of the teacher's last stage and of the micro-batch's data rank."""
    place = teacher.place_of(piece.source)
    assert (place.stage, place.data) == (teacher.pipeline - 1, k % teacher.data)


@given(LAYOUTS, st.integers(0, NUM_RANKS - 1))
def test_a_rank_has_one_place(degrees, rank):
    assert degrees.rank_at(degrees.place_of(rank)) == rank


def test_hidden_states_stay_where_they_are_needed():
    """A teacher over all tensor ranks has them whole on each."""
    deals = (Deal(d, batches_of(0)) for d in (AxisDegrees(8, True, 1), AxisDegrees(2, True, 4)))
    resharding = Resharding(*deals, Payload.HIDDEN, WIDTH, torch.int64)
    for k in range(NUM_MICRO_BATCHES):
        assert all(piece.source == piece.target for piece in resharding.pieces(k))


def test_megatron_s_order_of_ranks():
    """Tensor fastest, then context, data and pipeline."""
    degrees = AxisDegrees(tensor=2, sequence=True, data=3, pipeline=5, context=7)
    assert degrees.rank_at(Place(tensor=1, context=2, data=1, stage=3)) == 1 + 2 * (2 + 7 * (1 + 9))


@pytest.mark.parametrize("degrees", [AxisDegrees(1, False, 2), AxisDegrees(2, True, 1, context=2)])
def test_a_micro_batch_of_a_deal_has_the_tokens_that_the_deal_says(degrees):
    deal = Deal(degrees, batches_of(1))
    for rank in range(2):
        place = degrees.place_of(rank)
        mine = range(place.data, NUM_MICRO_BATCHES, degrees.data)
        for k, batch in zip(mine, deal.micro_batches(rank, pad_id=0), strict=True):
            assert batch.num_response_tokens == len(deal.response_tokens(k)[place.context])
