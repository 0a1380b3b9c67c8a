"""Infos, refusal counts and trades: each is read from the columns of a step's record."""

from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor

from paramarket_baselines.training.callbacks import METRICS
from paramarket_env.economics.clearing import REFUSALS
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.infos import INFOS, REFUSED, info_table, trade_columns
from paramarket_env.interface.render import DID, VERBS
from paramarket_env.market.orders import COLUMNS, StepRecord, blank_record
from tests.helpers import orders, priced_market, random_orders

KEYS = ["loss", "balance", "refused", *(f"refused_{cause}" for cause in REFUSALS)]
KEYS += ["trained", "offer", "seller", "weight", "quoted", "paid", "received", "gain"]


def new_batch() -> MarketBatch:
    batch = MarketBatch(priced_market(parameter_sets="layers"), num_markets=2, device="cpu")
    batch.reset(torch.tensor([1, 2]))
    return batch


def shapes(record: StepRecord) -> dict[str, tuple[torch.dtype, torch.Size]]:
    columns: dict[str, Tensor] = vars(record)
    return {name: (column.dtype, column.shape) for name, column in columns.items()}


def test_every_column_of_a_record_is_described_and_has_the_dtype_that_it_says() -> None:
    batch = new_batch()
    record = batch.engine.step(random_orders(batch.engine, np.random.default_rng(0)))
    assert set(COLUMNS) | {"truncated"} == set(get_type_hints(StepRecord))
    assert {name: column.dtype for name, column in COLUMNS.items()} == {
        name: column.dtype for name, column in vars(record).items() if name != "truncated"
    }
    assert all(column.unit and column.meaning for column in COLUMNS.values())


def test_the_blank_record_is_that_of_a_step_in_which_all_hold() -> None:
    batch = new_batch()
    record, blank = batch.engine.step(orders(batch.engine)), blank_record(batch.engine.state.balance)
    assert shapes(record) == shapes(blank)
    assert all(torch.equal(column, vars(blank)[name]) for name, column in vars(record).items())


def test_infos_have_these_keys_and_the_dtypes_of_their_table() -> None:
    batch = new_batch()
    record = batch.engine.step(random_orders(batch.engine, np.random.default_rng(0)))
    for infos in (batch.infos(), batch.infos(record)):
        assert list(infos) == KEYS
        assert {name: torch.from_numpy(column).dtype for name, column in infos.items()} == {
            e.name: e.dtype for e in INFOS
        }
        assert {str(column.dtype) for column in infos.values()} == {"bool", "int64", "float64"}


def test_the_table_of_infos_lists_every_entry_with_its_dtype_unit_and_meaning() -> None:
    head, rule, *rows = info_table().splitlines()
    assert (head, rule) == ("| name | dtype | unit | meaning |", "|---|---|---|---|")
    assert [row.split("`")[1] for row in rows] == KEYS
    assert rows[0] == "| `loss` | float64 | nats | own validation loss |"
    assert all(all(cell.strip() for cell in row.strip("|").split("|")) for row in rows)


def test_refusals_are_counted_by_cause() -> None:
    batch = new_batch()
    batch.engine.state.balance[:] = 0
    record = batch.engine.step(orders(batch.engine, buy={0: 1}))
    infos = batch.infos(record)
    assert record.refused.tolist() == [[True, False, False]] * 2
    assert {name: infos[name][0].tolist() for name in REFUSED if bool(infos[name].any())} == {
        "refused_unaffordable": [1, 0, 0]
    }
    assert np.array_equal(infos["refused"], sum(infos[name] for name in REFUSED))


def test_trades_are_listed_market_by_market_and_buyer_by_buyer() -> None:
    batch = new_batch()
    quoted, weight = batch.engine.gains, batch.engine.broker.weights(batch.engine.state).flatten(2)
    record = batch.engine.step(orders(batch.engine, buy={0: 3, 2: 0}))
    trades = trade_columns(record, batch.set_names)
    assert trades["market"].tolist() == [0, 0, 1, 1]
    assert trades["buyer"].tolist() == [0, 2, 0, 2]
    assert trades["seller"].tolist() == [2, 0, 2, 0]
    assert trades["parameter_set"].tolist() == ["layer2", "layer1"] * 2
    assert trades["price"].tolist() == [10] * 4
    assert trades["quoted_gain"].tolist() == quoted[[0, 0, 1, 1], [0, 2, 0, 2], [3, 0, 3, 0]].tolist()
    assert trades["merge_weight"].tolist() == weight[[0, 0, 1, 1], [0, 2, 0, 2], [3, 0, 3, 0]].tolist()


def test_a_step_without_trades_lists_none() -> None:
    batch = new_batch()
    columns = trade_columns(batch.engine.step(orders(batch.engine)), batch.set_names)
    assert all(len(column) == 0 for column in columns.values())


@pytest.mark.parametrize("column", [*METRICS.values(), *DID.values()])
def test_metrics_and_pictures_read_columns_that_a_record_has(column: str) -> None:
    record = blank_record(torch.zeros(2, 3))
    assert getattr(record, column).shape == (2, 3)


def test_every_verb_of_a_picture_has_a_colour() -> None:
    assert set(VERBS) == {*DID, "hold"}
