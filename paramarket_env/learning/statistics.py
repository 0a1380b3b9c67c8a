"""The running statistics of batch normalisation, which are always those of the owner's data.

The units of a merged network vary less than those of the networks that it was made of, so merged statistics do not fit
them. They are therefore estimated anew, on the buyer's data (Jordan et al., *REPAIR*, ICLR 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from paramarket_env.learning.data.datasets import Dataset
from paramarket_env.learning.data.endowments import Partition
from paramarket_env.learning.memory import chunk_elements
from paramarket_env.learning.networks.network import Network, has_statistics

SAMPLES = 256
"""The number of samples on which the statistics of a network are estimated."""


def own_samples(network: Network, partition: Partition, market: Tensor, agent: Tensor) -> Tensor:
    """The samples of Q agents on which their networks' statistics are estimated, int64 ``[Q, n]``.

    They are the first ``SAMPLES`` of an endowment, which begins again if it has fewer. ``n`` is 0 for networks without
    statistics. ``market`` and ``agent`` are int64 ``[Q]``.
    """
    if not has_statistics(network):
        return market.new_empty(len(market), 0)
    market, agent = market.unsqueeze(1), agent.unsqueeze(1)
    places = torch.arange(SAMPLES, device=market.device) % partition.sizes[market, agent]
    return partition.endowments[market, agent, places]


def with_own_statistics(
    network: Network, dataset: Dataset, partition: Partition, parameters: Tensor, market: Tensor, agent: Tensor
) -> Tensor:
    """The networks ``[Q, P]`` of Q agents with the statistics of their owners' data; see :func:`own_samples`."""
    samples = own_samples(network, partition, market, agent)
    return with_statistics(network, dataset, parameters.unsqueeze(1), samples).squeeze(1)


def with_statistics(network: Network, dataset: Dataset, parameters: Tensor, samples: Tensor) -> Tensor:
    """The networks ``[Q, W, P]`` with the statistics of the ``samples``, int64 ``[Q, n]``, of their row."""
    if not has_statistics(network):
        return parameters
    networks = parameters.flatten(0, 1)
    samples = samples.repeat_interleave(parameters.shape[1], dim=0)
    rows = max(1, chunk_elements(samples.device) // (dataset.size * SAMPLES))
    chunks = zip(networks.split(rows), samples.split(rows), strict=True)
    parts = [network.with_statistics(some, dataset.take(theirs)) for some, theirs in chunks]
    return torch.cat(parts).view_as(parameters)
