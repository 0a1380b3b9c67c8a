"""Money is integers, and none is made or lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paramarket_env.economics.ledger import open_accounts, receipts, settle

RICH = 2**60 + 1  # a float64 cannot hold it


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


def test_accounts_open_with_the_budget_in_whole_ticks() -> None:
    accounts = open_accounts(2, 3, RICH, torch.device("cpu"))
    assert accounts.dtype == torch.int64
    assert accounts.tolist() == [[RICH] * 3] * 2


def test_receipts_add_up_what_several_buyers_pay_to_one_seller() -> None:
    assert receipts(row(2, 2, -1), row(5, 7, 0)).tolist() == [[0, 0, 12]]


def test_an_agent_that_buys_nothing_pays_nothing_whatever_its_payment_says() -> None:
    assert receipts(row(-1, -1), row(5, 7)).tolist() == [[0, 0]]
    assert settle(row(9, 9), row(-1, 0), row(5, 7)).tolist() == [[16, 2]]


def test_two_agents_can_pay_each_other_at_once() -> None:
    assert settle(row(5, 7), row(1, 0), row(5, 7)).tolist() == [[7, 5]]


def test_markets_do_not_pay_into_each_other() -> None:
    balances = torch.tensor([[10, 10], [10, 10]])
    settled = settle(balances, torch.tensor([[1, -1], [-1, 0]]), torch.tensor([[3, 0], [0, 4]]))
    assert settled.tolist() == [[7, 13], [14, 6]]


def test_what_is_received_in_a_step_cannot_be_spent_in_it() -> None:
    with pytest.raises(ValueError, match="balance before"):
        settle(row(0, 10), row(1, 0), row(4, 10))


def test_the_whole_balance_can_be_spent_but_no_tick_more() -> None:
    assert settle(row(RICH, 0), row(1, -1), row(RICH, 0)).tolist() == [[0, RICH]]
    with pytest.raises(ValueError, match="payment"):
        settle(row(RICH, 0), row(1, -1), row(RICH + 1, 0))


def test_a_negative_payment_is_refused() -> None:
    with pytest.raises(ValueError, match="payment"):
        settle(row(5, 5), row(1, -1), row(-1, 0))


def test_a_refused_settlement_moves_nothing() -> None:
    balances = torch.tensor([[10, 10], [3, 3]])
    before = balances.clone()
    with pytest.raises(ValueError, match="payment"):
        settle(balances, torch.tensor([[1, -1], [1, -1]]), torch.tensor([[5, 0], [4, 0]]))
    assert torch.equal(balances, before)


def test_settling_leaves_the_balances_before_as_they_were() -> None:
    balances = row(5, 7)
    settle(balances, row(1, 0), row(5, 7))
    assert balances.tolist() == [[5, 7]]


@given(payments())
def test_settling_conserves_the_money_of_every_market_and_overdraws_nobody(case: tuple[Tensor, Tensor, Tensor]) -> None:
    balances, sellers, paid = case
    settled = settle(balances, sellers, paid)
    assert settled.dtype == torch.int64
    assert [sum(market) for market in settled.tolist()] == [sum(market) for market in balances.tolist()]
    assert int(settled.min()) >= 0


@given(payments())
def test_settling_equals_one_payment_after_the_other(case: tuple[Tensor, Tensor, Tensor]) -> None:
    balances, sellers, paid = (tensor.tolist() for tensor in case)
    expected = [list(market) for market in balances]
    for market, row_of_sellers in enumerate(sellers):
        for buyer, seller in enumerate(row_of_sellers):
            if seller >= 0:
                expected[market][buyer] -= paid[market][buyer]
                expected[market][seller] += paid[market][buyer]
    assert settle(*case).tolist() == expected


@given(payments(), st.integers(1, 2**62), st.data())
def test_any_overdraft_is_refused_and_moves_nothing(
    case: tuple[Tensor, Tensor, Tensor], excess: int, data: st.DataObject
) -> None:
    balances, sellers, paid = case
    market, agent = (data.draw(st.integers(0, size - 1)) for size in balances.shape)
    sellers[market, agent] = 0
    paid[market, agent] = balances[market, agent] + excess
    before = balances.clone()
    with pytest.raises(ValueError, match="payment"):
        settle(balances, sellers, paid)
    assert torch.equal(balances, before)
