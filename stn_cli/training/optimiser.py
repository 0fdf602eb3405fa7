"""The optimiser and its learning rate as a function of the step."""

import math

import torch

from stn_cli.config import TrainConfig
from stn_cli.models.network import Network

WARM_UP = 0.2  # share of a one-cycle run during which the rate rises
START = 0.1  # the rate it rises from, relative to the peak


def build_optimiser(network: Network, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD over two groups: everything else, and localisation networks with their own rate."""
    localisation = [] if network.transformer is None else list(network.transformer.localisation.parameters())
    special = {id(parameter) for parameter in localisation}
    groups = [
        {"params": [p for p in network.parameters() if id(p) not in special], "rate": 1.0},
        {"params": localisation, "rate": config.localisation_rate},
    ]
    optimiser = torch.optim.SGD(
        [group for group in groups if group["params"]],
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


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
