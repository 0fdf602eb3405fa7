"""The optimiser, and its learning rate as a function of the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.config import TrainConfig
from stn_cli.errors import CheckpointError
from stn_cli.models.network import Network

WARM_UP = 0.5  # share of a one-cycle run during which the rate rises; with 0.2 transformers hardly learn to turn digits
START = 0.1  # the rate it rises from, relative to the peak

# What checkpoints call the parts of an optimiser's state.
STATES = {"momentum_buffer": "momentum", "step": "steps", "exp_avg": "mean", "exp_avg_sq": "square"}


class Optimiser:
    """SGD over a network; its localisation networks in groups of their own, one for each rate, with SGD too or Adam.

    A localisation network has few weights, which every image moves at once: with the step that suits the classifier,
    most of its ReLUs go dead in a few hundred steps, and with them all that tells one image's warp from another's.
    Adam's step does not depend on the gradient's size.
    """

    def __init__(self, network: Network, config: TrainConfig) -> None:
        localisation: dict[float, list[torch.nn.Parameter]] = {}
        for place in network.by_place.values():
            for transformer, rate in zip(place.transformers, place.rates, strict=True):
                group = localisation.setdefault(config.localisation_rate if rate is None else rate, [])
                group += transformer.localisation.parameters()
        special = {id(parameter) for group in localisation.values() for parameter in group}
        plain: list[dict[str, Any]] = [
            {"params": [p for p in network.parameters() if id(p) not in special], "rate": 1.0}
        ]
        groups: list[dict[str, Any]] = [{"params": group, "rate": rate} for rate, group in localisation.items()]
        adaptive = config.localisation_optimiser == "adam" and bool(groups)
        # Fused: one pass over the weights, and it can skip a step that is not finite without a transfer.
        sgd = torch.optim.SGD(
            plain if adaptive else [*plain, *groups],
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._parts: list[torch.optim.Optimizer] = [sgd]
        device = next(network.parameters()).device
        if adaptive:
            betas = (config.momentum, 0.999)
            on_gpu = device.type == "cuda"  # where steps may be captured
            self._parts.insert(0, torch.optim.Adam(groups, config.learning_rate, betas, fused=True, capturable=on_gpu))
        self._names = {parameter: name for name, parameter in network.named_parameters()}
        for part in self._parts:  # else the first step makes the state, and a skipped one leaves garbage there
            for parameter in parameters_of(part):
                part.state[parameter].update(_first_state(part, parameter))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups: everything else first, then the localisation networks of each rate."""
        return [group for part in reversed(self._parts) for group in part.param_groups]

    @property
    def by_part(self) -> list[list[torch.nn.Parameter]]:
        """The parameters of each method, SGD's last; `clip_norm` is for these."""
        return [parameters_of(part) for part in self._parts]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self._parts:
            part.zero_grad()

    def step(self, skip: Float[Tensor, ""] | None = None) -> None:
        """Update the weights by their gradients, unless `skip` is 1, which is read on the device."""
        for part in self._parts:
            if skip is not None:
                # The fused kernels leave weights and state alone where this is 1 (as torch.amp.GradScaler uses it).
                part.found_inf = skip  # pyright: ignore[reportAttributeAccessIssue]
            part.step()

    def set_rates(self, rates: Sequence[float] | Float[Tensor, "groups"]) -> None:
        """Let the next update take these rates; those that lie on a CUDA device are read there, when it is made."""
        for group, rate in zip(self.groups, rates, strict=True):
            group["lr"] = rate

    def rates(self, rate: float) -> list[float]:
        """Return what each group gets of a learning rate."""
        return [rate * group["rate"] for group in self.groups]

    def slow_localisation(self, factor: float) -> None:
        """Multiply the rates of all localisation networks."""
        for group in self.groups[1:]:
            group["rate"] *= factor

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of every parameter as "momentum.<parameter>" and the like: the tensors themselves."""
        return {
            f"{STATES[key]}.{self._names[parameter]}": value
            for part in self._parts
            for parameter in parameters_of(part)
            for key, value in part.state[parameter].items()
            if value is not None
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state that `tensors` gave, in place, since recorded steps read and write what is there.

        Raises:
            CheckpointError: a part of it is missing, as after training with another optimiser.
        """
        for name, own in self.tensors().items():
            if name not in tensors:
                raise CheckpointError(
                    f"the checkpoint holds no {name}, it is from another optimiser",
                    "Train with the settings of its run, train.localisation_optimiser above all.",
                )
            own.copy_(tensors[name])


def parameters_of(optimiser: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return all parameters of an optimiser of PyTorch."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _first_state(optimiser: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    if isinstance(optimiser, torch.optim.Adam):
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    return {"momentum_buffer": torch.zeros_like(parameter)} if optimiser.defaults["momentum"] else {}


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 0, of `total`.

    one-cycle: rises linearly over the first half, then falls along a cosine to zero. step: divided by ten after each
    third, which is every 50k of the paper's 150k iterations.
    """
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** (3 * step // total)
    rise = max(1, round(WARM_UP * total))
    if step < rise:
        return config.learning_rate * (START + (1 - START) * step / rise)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
