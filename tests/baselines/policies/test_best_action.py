"""A network that acts greedily: its best legal action, and the same for any network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from paramarket_baselines.evaluation.play import Arm, play
from paramarket_baselines.policies.best_action import BestAction
from paramarket_env.config import ActionMode
from paramarket_env.interface.batch import MarketBatch
from paramarket_env.interface.policy import seat_of
from tests.helpers import priced_market


@pytest.mark.parametrize("mode", ["verb", "round"])
def test_the_legal_action_with_the_highest_score_is_taken(mode: ActionMode) -> None:
    batch = MarketBatch(priced_market(action_mode=mode, opens_at=3), 4, "cpu")
    observation, mask = (seen[:, 0] for seen in batch.reset(torch.arange(4)))
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(mask.shape, generator=generator) + 10 * ~mask  # what is illegal scores highest
    chosen = BestAction(lambda seen: table, seat_of(batch, 4)).act(observation, mask)
    assert not bool(mask.all())
    parts = torch.where(mask, table, -1.0).split(batch.actions.nvec, dim=-1)
    assert chosen.reshape(4, -1).tolist() == torch.stack([part.argmax(-1) for part in parts], -1).tolist()


def test_a_network_plays_wherever_a_rule_does_and_keeps_no_gradients() -> None:
    config = priced_market(action_mode="verb")
    network = nn.LazyLinear(MarketBatch(config, 1, "cpu").actions.mask_size)
    graphs: list[bool] = []

    def scores(observation: Tensor) -> Tensor:
        found: Tensor = network(observation)
        graphs.append(found.requires_grad)
        return found

    learned = partial(BestAction, scores)
    steps = play(config, Arm("x", (learned, "train", "patient")), (0, 1), "cpu").steps
    assert steps[(steps.agent == 1) & (steps.cycle > 0)].trained.all()
    assert graphs == [False] * config.max_cycles
