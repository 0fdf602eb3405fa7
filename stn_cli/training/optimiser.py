"""The optimiser and its learning rate as a function of the step."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.config import TrainConfig
from stn_cli.models.network import Network

WARM_UP = 0.2  # share of a one-cycle run during which the rate rises
START = 0.1  # the rate it rises from, relative to the peak


def build_optimiser(network: Network, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD over groups: everything else, and the localisation networks of each rate."""
    localisation: dict[float, list[torch.nn.Parameter]] = {}
    for place in network.by_place.values():
        for transformer, rate in zip(place.transformers, place.rates, strict=True):
            group = localisation.setdefault(config.localisation_rate if rate is None else rate, [])
            group += transformer.localisation.parameters()
    special = {id(parameter) for group in localisation.values() for parameter in group}
    others = [parameter for parameter in network.parameters() if id(parameter) not in special]
    groups = [{"params": group, "rate": rate} for rate, group in localisation.items()]
    optimiser = torch.optim.SGD(
        [{"params": others, "rate": 1.0}, *groups],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=True,  # one pass over the weights, and it can skip a step that is not finite without a transfer
    )
    if config.momentum:
        for parameter in network.parameters():  # else the first step makes them, and a skipped one leaves garbage there
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 0, of `total`.

    one-cycle: rises linearly over the first fifth, then falls along a cosine to zero. step: divided by ten after each
    third, which is every 50k of the paper's 150k iterations.
    """
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** (3 * step // total)
    rise = max(1, round(WARM_UP * total))
    if step < rise:
        return config.learning_rate * (START + (1 - START) * step / rise)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def slow_localisation(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the rates of all localisation networks."""
    for group in optimiser.param_groups[1:]:
        group["rate"] *= factor


def group_rates(optimiser: torch.optim.Optimizer, rate: float) -> list[float]:
    """Return what each group of the optimiser gets of a learning rate."""
    return [rate * group["rate"] for group in optimiser.param_groups]


def set_group_rates(optimiser: torch.optim.Optimizer, rates: Sequence[float] | Float[Tensor, "groups"]) -> None:
    """Let the next update take these rates; those that lie on a CUDA device are read there, when it is made."""
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate
