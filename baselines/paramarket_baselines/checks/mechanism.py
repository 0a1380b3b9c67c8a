"""The checks of a mechanism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from paramarket_baselines.checks.check import Check, NotRun, expect, run_all, unchanged_randomness
from paramarket_env.economics.clearing import MECHANISMS, WITHHELD, Book, Mechanism, Trades, clear
from paramarket_env.economics.ledger import covered, settle

FIRMS = (2, 3, 8)
"""The numbers of agents in the markets in which a mechanism is checked."""

NUM_MARKETS = 64
"""The number of markets that are cleared at once."""

PRICES = torch.tensor([0, 7, 10, 25, 60], device="cpu")
"""The ticks that can be asked and bid."""

Columns = TypeVar("Columns", Book, Trades)


def random_book(mechanism: Mechanism, firms: int, seed: int = 0) -> Book:
    """Orders of all kinds: some agents order nothing, some orders must be refused, and some markets are closed."""
    generator = torch.Generator().manual_seed(seed)

    def draws(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape or (NUM_MARKETS, firms), generator=generator, device="cpu")

    seller = (torch.arange(firms, device="cpu") + 1 + draws(firms - 1)) % firms
    bid, ask = PRICES[draws(len(PRICES))], torch.where(draws(8) > 0, PRICES[draws(len(PRICES))], WITHHELD)
    return Book(
        wanted=torch.where(draws(8) > 0, seller, -1),
        good=draws(2),
        bid=bid if mechanism.bids else torch.zeros_like(bid),
        ask=ask if mechanism.personal else ask.gather(1, seller),
        quoted=draws(8) > 0,
        balance=draws(90),
        priority=draws(2**31).argsort(dim=1),
        market_open=draws(8, NUM_MARKETS) > 0,
    )


class MechanismTrial:
    """A mechanism with the random orders of some firms. Its text is the number of firms.

    Raises ``ValueError`` if there is no such mechanism.
    """

    def __init__(self, mechanism: str | Mechanism, firms: int) -> None:
        self.mechanism, self.firms = MECHANISMS.check(mechanism), firms
        self.book = random_book(self.mechanism, firms)

    def __str__(self) -> str:
        return f"{self.firms} firms"

    @cached_property
    def cleared(self) -> Trades | Exception:
        """The trades that the orders lead to, or the exception that the mechanism raises."""
        try:
            return clear(self.mechanism, copied(self.book))
        except Exception as error:  # a check judges whatever the mechanism raises
            return error

    @property
    def trades(self) -> Trades:
        """The trades that the orders lead to; see :meth:`require_trades`."""
        return self.require_trades()

    def require_trades(self) -> Trades:
        """The trades that the orders lead to; raises :class:`NotRun` if there are none because of an exception."""
        if isinstance(self.cleared, Trades):
            return self.cleared
        raise NotRun(f"needs clears-every-book: {self.cleared}")

    @cached_property
    def deterministic(self) -> bool:
        """Whether the same orders lead to the same trades a second time."""
        return same_trades(self.trades, clear(self.mechanism, copied(self.book)))

    @property
    def expected(self) -> Trades:
        """The trades that the orders always lead to; raises :class:`NotRun` if they are not always the same."""
        if not self.deterministic:
            raise NotRun("needs is-deterministic")
        return self.trades

    @property
    def bought(self) -> Tensor:
        """Whether each agent's order became a trade, bool ``[M, N]``."""
        return self.trades.seller >= 0


def mapped(columns: Columns, change: Callable[[Tensor], Tensor]) -> Columns:
    """The orders or trades with each of their tensors changed."""
    return replace(columns, **{field.name: change(getattr(columns, field.name)) for field in fields(columns)})


def copied(book: Book) -> Book:
    """A copy of a book."""
    return mapped(book, torch.clone)


def same_trades(one: Trades, other: Trades) -> bool:
    """Whether two sets of trades are equal."""
    return all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def mechanism_trials(mechanism: str | Mechanism) -> list[MechanismTrial]:
    """A mechanism in markets of two, three and eight firms."""
    return [MechanismTrial(mechanism, firms) for firms in FIRMS]


def check_mechanism(mechanism: str | Mechanism) -> None:
    """Run all checks of a mechanism in markets of two, three and eight firms.

    Raises ``AssertionError`` that names the first check that fails, the market, what was expected and what came.
    """
    run_all(MECHANISM_CHECKS, mechanism_trials(mechanism))


# --- the checks ------------------------------------------------------------------------------------------------------


def clears_every_book(trial: MechanismTrial) -> None:
    """Every set of orders is cleared without an exception."""
    if isinstance(trial.cleared, Exception):
        raise trial.cleared


def returns_flags_and_ticks(trial: MechanismTrial) -> None:
    """Flags are bool and prices int64, one for each order; the flags of a bid broadcast over all bids."""
    trial.require_trades()
    how, book = trial.mechanism, copied(trial.book)
    every_bid = PRICES, book.ask.unsqueeze(2), book.balance.unsqueeze(2)
    standing = book.wanted >= 0
    one, many = (NUM_MARKETS, trial.firms), (NUM_MARKETS, trial.firms, len(PRICES))
    _expect_tensor("unaffordable", how.unaffordable(*every_bid), torch.bool, (*one, 1), many)
    _expect_tensor("underbid", how.underbid(*every_bid[:2]), torch.bool, (*one, 1), many)
    _expect_tensor("outbid", how.outbid(book, standing), torch.bool, one)
    _expect_tensor("price", how.price(book, standing), torch.int64, one)


def _expect_tensor(name: str, tensor: Tensor, dtype: torch.dtype, *shapes: tuple[int, ...]) -> None:
    right = tensor.dtype == dtype and tuple(tensor.shape) in shapes
    expect(right, f"{name} as {dtype} {list(shapes[-1])}", f"{tensor.dtype} {list(tensor.shape)}")


def sells_something(trial: MechanismTrial) -> None:
    """Some orders become trades."""
    expect(bool(trial.bought.any()), "a trade among many orders", "none")


def charges_at_least_the_ask(trial: MechanismTrial) -> None:
    """No seller gets less than its ask."""
    _expect_prices(trial, trial.trades.price >= trial.book.ask, "at least the ask")


def charges_at_most_the_bid(trial: MechanismTrial) -> None:
    """No buyer that bids pays more than its bid."""
    if trial.mechanism.bids:
        _expect_prices(trial, trial.trades.price <= trial.book.bid, "at most the bid")


def conserves_money(trial: MechanismTrial) -> None:
    """Payments are covered by the balances, so that no balance falls below 0 and no tick is lost."""
    trades, balances = trial.trades, trial.book.balance
    _expect_prices(trial, covered(balances, trades.seller, trades.price), "within the buyer's balance")
    done = settle(balances, trades.seller, trades.price.long(), fee=0.1)
    expect(torch.equal(done.balances.sum(1) + done.fees, balances.sum(1)), "the same sum of money", "another one")


def _expect_prices(trial: MechanismTrial, right: Tensor, expected: str) -> None:
    wrong = (trial.bought & ~right).nonzero()
    if len(wrong):
        market, buyer = wrong[0].tolist()
        book = {name: int(getattr(trial.book, name)[market, buyer]) for name in ("ask", "bid", "balance")}
        expect(False, f"a price {expected}", f"{trial.trades.price[market, buyer].item()} with {book}")


def is_deterministic(trial: MechanismTrial) -> None:
    """The same orders lead to the same trades."""
    expect(trial.deterministic, "the same trades again", "others")


def clears_each_market_alone(trial: MechanismTrial) -> None:
    """A batch of markets is cleared as each market alone."""
    trades = trial.expected
    for market in torch.arange(NUM_MARKETS, device="cpu").split(1):
        alone = clear(trial.mechanism, _rows(trial.book, market))
        expected = f"the trades of the batch in market {market.item()} alone"
        expect(same_trades(alone, _rows(trades, market)), expected, "others")


def _rows(columns: Columns, rows: Tensor) -> Columns:
    """The orders or trades of some markets."""
    return mapped(columns, lambda column: column[rows])


def treats_firms_alike(trial: MechanismTrial) -> None:
    """Trades do not depend on the numbers of the firms: a permutation of firms permutes the trades."""
    trades = trial.expected
    order = torch.randperm(trial.firms, generator=torch.Generator().manual_seed(0), device="cpu")
    came = clear(trial.mechanism, _moved(trial.book, order))
    expect(same_trades(came, _moved(trades, order)), "permuted trades of permuted firms", "others")


def _moved(columns: Columns, order: Tensor) -> Columns:
    """The orders or trades after firm ``order[i]`` has become firm i."""
    numbers = torch.cat([order.argsort(), torch.tensor([-1], device="cpu")])  # the last one stands for no firm
    moved = mapped(columns, lambda column: column[:, order] if column.dim() > 1 else column)
    sellers = {name: numbers[getattr(moved, name)] for name in ("wanted", "seller") if hasattr(moved, name)}
    return replace(moved, **sellers)


def ignores_orders_that_are_refused_anyway(trial: MechanismTrial) -> None:
    """Bids and goods of agents without an order, without a quote or in a closed market change no trade."""
    trades, book, other = trial.expected, trial.book, random_book(trial.mechanism, trial.firms, seed=1)
    idle = (book.wanted < 0) | ~book.quoted | ~book.market_open.unsqueeze(1)
    good, bid = torch.where(idle, other.good, book.good), torch.where(idle, other.bid, book.bid)
    came = clear(trial.mechanism, replace(copied(book), good=good, bid=bid))
    same = torch.equal(came.seller, trades.seller) and torch.equal(came.price, trades.price)
    expect(same, "the same trades with other orders of agents that cannot buy", "others")


def leaves_the_book_alone(trial: MechanismTrial) -> None:
    """It changes no order in place."""
    trial.require_trades()
    book = copied(trial.book)
    clear(trial.mechanism, book)
    names = [field.name for field in fields(book)]
    changed = [name for name in names if not torch.equal(getattr(book, name), getattr(trial.book, name))]
    expect(not changed, "orders unchanged", f"changed {', '.join(changed)}")


def leaves_global_randomness_alone(trial: MechanismTrial) -> None:
    """It does not touch the global random generators of torch, NumPy and Python."""
    trial.require_trades()
    with unchanged_randomness():
        clear(trial.mechanism, copied(trial.book))


MECHANISM_CHECKS = tuple(
    Check(function)
    for function in (
        clears_every_book,
        returns_flags_and_ticks,
        sells_something,
        charges_at_least_the_ask,
        charges_at_most_the_bid,
        conserves_money,
        is_deterministic,
        clears_each_market_alone,
        treats_firms_alike,
        ignores_orders_that_are_refused_anyway,
        leaves_the_book_alone,
        leaves_global_randomness_alone,
    )
)
"""All checks of a mechanism. Those that need another one are after it."""
