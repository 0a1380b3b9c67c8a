"""M markets with the interface of an RL environment: tensors of observations, masks, actions and rewards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paramarket_env.config import MarketConfig
from paramarket_env.interface.actions import Choices, build_actions
from paramarket_env.interface.infos import info_columns
from paramarket_env.interface.observations import ObservationLayout, Observer
from paramarket_env.market.engine import Engine
from paramarket_env.market.orders import StepRecord
from paramarket_env.market.view import MarketView
from paramarket_env.seeding import as_seeds, fresh_seed, next_seeds
from paramarket_env.validation import require


@dataclass(frozen=True)
class Transition:
    """The result of one step, on the market's device."""

    observation: Tensor
    """float32 ``[M, N, D]``."""
    mask: Tensor
    """bool ``[M, N, A]``."""
    record: StepRecord
    """Rewards, terminations, truncations and everything else that happened."""


class MarketBatch:
    """The engine with observations, masks and encoded actions. ``ParaMarketEnv`` wraps a batch of one market."""

    def __init__(self, config: MarketConfig, num_markets: int = 1, device: str | torch.device = "auto") -> None:
        self.engine = Engine(config, num_markets, device)
        self.config = config
        self._observer = Observer(self.engine)
        exchange, levels = self.engine.exchange, len(config.economy.ask_levels) + 1
        choices = Choices(self.engine.offers, exchange.bid_levels, exchange.ask_slots, levels)
        self.actions = build_actions(config.action_mode, choices)
        self.agent_names = [f"trader_{agent}" for agent in range(config.agents)]
        """The names of a market's agents, in order."""
        self._hold = torch.cat([torch.arange(part, device=self.device) == 0 for part in self.actions.nvec])

    @property
    def layout(self) -> ObservationLayout:
        """The layout of an observation."""
        return self._observer.layout

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.engine.device

    @property
    def num_markets(self) -> int:
        """M, the number of markets."""
        return self.engine.num_markets

    @property
    def set_names(self) -> tuple[str, ...]:
        """The names of the parameter sets, in the order of a seller's offers."""
        return self.engine.broker.goods.names

    def offers(self, agent: str) -> list[tuple[str, str]]:
        """The offers of an agent in the order in which actions number them: (seller, parameter set).

        If partners change in every step, the sellers are named by their slots: ``partner_0``, ``partner_1``, ...

        Raises ``ValueError`` for an unknown agent.
        """
        require(agent in self.agent_names, "agent", agent, f"one of {self.agent_names}")
        others = [other for other in self.agent_names if other != agent]
        partners = self.config.broker.partners
        sellers = others if partners is None else [f"partner_{slot}" for slot in range(partners)]
        return [(seller, good) for seller in sellers for good in self.set_names]

    @property
    def seeds(self) -> Tensor:
        """The seeds of the current episodes, int64 ``[M]``."""
        return self.engine.state.seeds

    @property
    def alive(self) -> Tensor:
        """bool ``[M, N]``: the agent is not terminated."""
        return self.engine.state.alive

    @property
    def begun(self) -> bool:
        """Whether :meth:`reset` has been called."""
        return hasattr(self.engine, "state")

    def next_seeds(self, seed: int | Iterable[int] | None = None) -> Tensor:
        """The seeds of the next episodes, int64 ``[M]``.

        ``seed`` is one seed for each market, or a single seed from which all of them are hashed (see ``as_seeds``).
        With None the seeds follow from those of the last episodes, or from the operating system before the first reset.
        """
        if seed is None and self.begun:
            return next_seeds(self.seeds)
        return as_seeds(fresh_seed() if seed is None else seed, self.num_markets, self.device)

    def observe(self) -> Tensor:
        """The current observations of all agents, float32 ``[M, N, D]``."""
        return self._observer.observe(self.engine.view)

    def mask(self) -> Tensor:
        """The actions that are legal now, bool ``[M, N, A]``. A terminated agent may only hold."""
        return self._mask_in(self.engine.view)

    def observe_and_mask(self) -> tuple[Tensor, Tensor]:
        """The current observations and masks of all agents, computed from one view."""
        view = self.engine.view
        return self._observer.observe(view), self._mask_in(view)

    def _mask_in(self, view: MarketView) -> Tensor:
        return torch.where(self.alive.unsqueeze(2), self.actions.mask(view.legal_purchases), self._hold)

    def infos(self, record: StepRecord | None = None) -> dict[str, np.ndarray]:
        """The infos of all agents after a step, or after a reset if ``record`` is None; see ``info_columns``."""
        return info_columns(self.engine.state, record)

    def reset(self, seeds: Tensor, markets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Begin new episodes (see ``Engine.reset``). Returns the observations and masks of all markets."""
        self.engine.reset(seeds, markets)
        return self.observe_and_mask()

    def step(self, actions: Tensor) -> Transition:
        """One step of all markets; ``actions`` int64 ``[M, N]`` (``verb``) or ``[M, N, 2 + S]`` (``round``).

        Raises ``ValueError``, before anything changes, for an action outside the space or with a wrong shape.
        """
        parts = len(self.actions.nvec)
        expected = (self.num_markets, self.config.agents) + ((parts,) if parts > 1 else ())
        if tuple(actions.shape) != expected or actions.is_floating_point():
            given = f"{actions.dtype} of shape {tuple(actions.shape)}"
            raise ValueError(f"actions={given} is not allowed: it must be int64 of shape {expected}")
        record = self.engine.step(self.actions.decode(actions.to(self.device)))
        return Transition(*self.observe_and_mask(), record)
