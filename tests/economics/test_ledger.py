"""Money is integers, and none is made or lost, whatever share of it the broker keeps."""

from __future__ import annotations

from math import floor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.ledger import covered, receipts, settle, share_of

RICH = 2**60 + 1  # a float64 cannot hold it
FEES = st.floats(0, 1, exclude_max=True)


def row(*numbers: int) -> Tensor:
    return torch.tensor([numbers])


@st.composite
def payments(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Balances, sellers and payments within them, ``[M, N]``."""
    markets, agents = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    count = markets * agents
    balances = draw(st.lists(st.integers(0, RICH), min_size=count, max_size=count))
    sellers = draw(st.lists(st.integers(-1, agents - 1), min_size=count, max_size=count))
    paid = [draw(st.integers(0, balance)) for balance in balances]
    market = torch.tensor(balances), torch.tensor(sellers), torch.tensor(paid)
    first, second, third = (tensor.view(markets, agents) for tensor in market)
    return first, second, third


def test_receipts_add_up_what_several_buyers_pay_to_one_seller() -> None:
    assert receipts(row(2, 2, -1), row(5, 7, 0)).tolist() == [[0, 0, 12]]


def test_an_agent_that_buys_nothing_pays_nothing_whatever_its_payment_says() -> None:
    assert receipts(row(-1, -1), row(5, 7)).tolist() == [[0, 0]]
    assert settle(row(9, 9), row(-1, 0), row(5, 7)).balances.tolist() == [[16, 2]]


def test_two_agents_can_pay_each_other_at_once() -> None:
    assert settle(row(5, 7), row(1, 0), row(5, 7)).balances.tolist() == [[7, 5]]


def test_markets_do_not_pay_into_each_other() -> None:
    balances = torch.tensor([[10, 10], [10, 10]])
    settled = settle(balances, torch.tensor([[1, -1], [-1, 0]]), torch.tensor([[3, 0], [0, 4]]), fee=0.5)
    assert settled.balances.tolist() == [[7, 12], [12, 6]]
    assert settled.received.tolist() == [[0, 2], [2, 0]]
    assert settled.fees.tolist() == [1, 2]


def test_what_is_received_in_a_step_cannot_be_spent_in_it() -> None:
    assert covered(row(0, 10), row(1, 0), row(4, 10)).tolist() == [[False, True]]


def test_the_whole_balance_can_be_spent_but_no_tick_more() -> None:
    assert settle(row(RICH, 0), row(1, -1), row(RICH, 0)).balances.tolist() == [[0, RICH]]
    assert covered(row(RICH, 0), row(1, -1), row(RICH, 0)).all()
    assert covered(row(RICH, 0), row(1, -1), row(RICH + 1, 0)).tolist() == [[False, True]]


def test_a_negative_payment_is_not_covered() -> None:
    assert covered(row(5, 5), row(1, -1), row(-1, 0)).tolist() == [[False, True]]


def test_an_agent_that_buys_nothing_needs_no_balance() -> None:
    assert covered(row(0, 5), row(-1, 0), row(7, 5)).all()


def test_settling_leaves_the_balances_before_as_they_were() -> None:
    balances = row(5, 7)
    settle(balances, row(1, 0), row(5, 7))
    assert balances.tolist() == [[5, 7]]


@pytest.mark.parametrize(
    ("fee", "price", "kept"),
    [
        (0.0, 99, 0),
        (0.5, 9, 4),
        (0.25, 7, 1),
        (0.25, 3, 0),
        (0.05, 200, 10),
        (0.29, 100, 29),
        (0.999, 1000, 999),
        (0.999, 1, 0),
    ],
)
def test_the_broker_keeps_its_share_in_whole_ticks_and_the_seller_gets_the_rest(
    fee: float, price: int, kept: int
) -> None:
    settled = settle(row(1000, 0), row(1, -1), row(price, 0), fee)
    assert settled.fees.tolist() == [kept]
    assert settled.received.tolist() == [[0, price - kept]]
    assert settled.balances.tolist() == [[1000 - price, price - kept]]


def test_a_share_is_taken_of_each_payment_and_not_of_their_sum() -> None:
    settled = settle(row(9, 9, 0), row(2, 2, -1), row(9, 9, 0), fee=0.5)
    assert settled.fees.tolist() == [8]
    assert settled.received.tolist() == [[0, 0, 10]]


def test_who_pays_nobody_pays_no_fee() -> None:
    settled = settle(row(9, 9), row(-1, -1), row(9, 9), fee=0.5)
    assert settled.fees.tolist() == [0]
    assert settled.balances.tolist() == [[9, 9]]


@given(payments(), FEES)
def test_settling_conserves_the_money_of_every_market_and_overdraws_nobody(
    case: tuple[Tensor, Tensor, Tensor], fee: float
) -> None:
    balances, sellers, paid = case
    settled = settle(balances, sellers, paid, fee)
    assert settled.balances.dtype == settled.received.dtype == settled.fees.dtype == torch.int64
    money = zip(settled.balances.tolist(), settled.fees.tolist(), strict=True)
    assert [sum(market) + kept for market, kept in money] == [sum(market) for market in balances.tolist()]
    assert min(int(part.min()) for part in (settled.balances, settled.received, settled.fees)) >= 0


@given(payments())
def test_without_a_fee_settling_equals_one_payment_after_the_other(case: tuple[Tensor, Tensor, Tensor]) -> None:
    balances, sellers, paid = (tensor.tolist() for tensor in case)
    expected = [list(market) for market in balances]
    for market, row_of_sellers in enumerate(sellers):
        for buyer, seller in enumerate(row_of_sellers):
            if seller >= 0:
                expected[market][buyer] -= paid[market][buyer]
                expected[market][seller] += paid[market][buyer]
    settled = settle(*case)
    assert settled.balances.tolist() == expected
    assert torch.equal(settled.received, receipts(case[1], case[2]))
    assert not bool(settled.fees.any())


@given(payments(), FEES)
def test_a_fee_is_the_share_of_the_price_rounded_down_as_far_as_a_float_counts(
    case: tuple[Tensor, Tensor, Tensor], fee: float
) -> None:
    balances, sellers, paid = case[0], case[1], case[2] % 2**50
    settled = settle(balances, sellers, paid, fee)
    for market, (to, prices) in enumerate(zip(sellers.tolist(), paid.tolist(), strict=True)):
        # 0.29 of 100 is 29, although the product of these floats is just below.
        due = [floor(price * fee * (1 + 2**-52)) for price in prices]
        kept = [share if seller >= 0 else 0 for seller, share in zip(to, due, strict=True)]
        assert int(settled.fees[market]) == sum(kept)
        for agent, received in enumerate(settled.received[market].tolist()):
            assert received == sum(prices[i] - kept[i] for i, seller in enumerate(to) if seller == agent)


@pytest.mark.parametrize("fee", [0.0, 0.05, 1 / 3, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("price", [RICH, 2**62 - 1, 2**63 - 1])
def test_a_fee_of_a_huge_price_is_its_share_and_never_more_than_the_price(price: int, fee: float) -> None:
    settled = settle(row(price, 0), row(1, -1), row(price, 0), fee)
    kept, received = int(settled.fees), int(settled.received[0, 1])
    assert kept + received == price
    assert 0 <= kept <= price
    assert kept == pytest.approx(fee * price, rel=1e-15)


@given(payments(), st.integers(1, 2**62), st.data())
def test_any_overdraft_is_found_and_nothing_else(
    case: tuple[Tensor, Tensor, Tensor], excess: int, data: st.DataObject
) -> None:
    balances, sellers, paid = case
    assert covered(*case).all()
    market, agent = (data.draw(st.integers(0, size - 1)) for size in balances.shape)
    sellers[market, agent] = 0
    paid[market, agent] = balances[market, agent] + excess
    assert (~covered(*case)).nonzero().tolist() == [[market, agent]]


@pytest.mark.parametrize(
    ("amount", "share", "part"), [(100, 0.29, 29), (100, 0.57, 57), (7, 0.5, 3), (10, 0.3, 3), (0, 0.9, 0)]
)
def test_a_share_is_that_of_the_decimal_number_rounded_down(amount: int, share: float, part: int) -> None:
    assert share_of(torch.tensor([amount]), share).tolist() == [part]


@given(st.integers(0, 2**63 - 1), st.floats(0, 1))
def test_a_share_of_any_amount_is_within_it(amount: int, share: float) -> None:
    part = int(share_of(torch.tensor(amount), share))
    assert 0 <= part <= amount
    assert part == pytest.approx(amount * share, rel=1e-14, abs=1)
