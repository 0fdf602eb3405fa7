"""The optimiser, and its learning rate as a function of the step."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stn_cli.config import TrainConfig
from stn_cli.errors import CheckpointError
from stn_cli.models.network import Network

WARM_UP = 0.5  # share of a one-cycle run during which the rate rises; with 0.2 transformers hardly learn to turn digits
START = 0.1  # the rate it rises from, relative to the peak

ADAM_SQUARE, ADAM_EPSILON = 0.999, 1e-8  # of Kingma and Ba (2015)

_kernels: Any = torch  # these are underscored, and so private to a checker of types
_listeners: list[Callable[[], None]] = []


@dataclass
class _Group:
    """Parameters with one learning rate, `rate` times the schedule's. `state`: by its name in checkpoints."""

    parameters: list[torch.nn.Parameter]
    rate: float
    state: dict[str, list[Tensor]]
    now: float | Tensor = 0.0


class Optimiser:
    """SGD over a network; its localisation networks in groups of their own, one for each rate, with SGD too or Adam.

    A localisation network has few weights, which every image moves at once: with the step that suits the classifier,
    most of its ReLUs go dead in a few hundred steps, and with them all that tells one image's warp from another's.
    Adam's step does not depend on the gradient's size.

    These are the kernels of torch.optim with `fused`: one pass over the weights, and they can skip a step that is not
    finite without a transfer. The classes around them would import PyTorch's compiler, 1.5 s of each start, and take
    half a millisecond of a step for what never changes here.
    """

    def __init__(self, network: Network, config: TrainConfig) -> None:
        self._config = config
        self._names = {parameter: name for name, parameter in network.named_parameters()}
        localisation: dict[float, list[torch.nn.Parameter]] = {}
        for place in network.by_place.values():
            for transformer, rate in zip(place.transformers, place.rates, strict=True):
                group = localisation.setdefault(config.localisation_rate if rate is None else rate, [])
                group += transformer.localisation.parameters()
        special = {id(parameter) for group in localisation.values() for parameter in group}
        plain = [parameter for parameter in network.parameters() if id(parameter) not in special]
        first = _first_adam if config.localisation_optimiser == "adam" else self._first_sgd
        self.groups = [_Group(plain, 1.0, self._first_sgd(plain))]
        self.groups += [_Group(group, rate, first(group)) for rate, group in localisation.items()]

    @property
    def by_method(self) -> list[list[torch.nn.Parameter]]:
        """The parameters of each method, SGD's first; `clip_norm` is for these."""
        methods: dict[bool, list[torch.nn.Parameter]] = {}
        for group in self.groups:
            methods.setdefault("steps" in group.state, []).extend(group.parameters)
        return list(methods.values())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._names:
            parameter.grad = None

    @torch.no_grad()
    def step(self, skip: Float[Tensor, ""] | None = None) -> None:
        """Update the weights by their gradients, unless `skip` is 1, which is read on the device."""
        with torch.profiler.record_function("update"):
            for group in self.groups:
                gradients = [parameter.grad for parameter in group.parameters]
                (self._adam if "steps" in group.state else self._sgd)(group, gradients, skip)
        for call in _listeners:
            call()

    def set_rates(self, rates: Sequence[float] | Float[Tensor, "groups"]) -> None:
        """Let the next update take these rates; those that lie on a CUDA device are read there, when it is made."""
        for group, rate in zip(self.groups, rates, strict=True):
            group.now = rate

    def rates(self, rate: float) -> list[float]:
        """Return what each group gets of a learning rate."""
        return [rate * group.rate for group in self.groups]

    def slow_localisation(self, factor: float) -> None:
        """Multiply the rates of all localisation networks."""
        for group in self.groups[1:]:
            group.rate *= factor

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of every parameter as "momentum.<parameter>" and the like: the tensors themselves."""
        return {
            f"{kind}.{self._names[parameter]}": value
            for group in self.groups
            for kind, values in group.state.items()
            for parameter, value in zip(group.parameters, values, strict=True)
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

    def _first_sgd(self, parameters: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        return {"momentum": [torch.zeros_like(p) for p in parameters]} if self._config.momentum else {}

    def _sgd(self, group: _Group, gradients: list[Any], skip: Tensor | None) -> None:
        _kernels._fused_sgd_(
            group.parameters,
            gradients,
            group.state.get("momentum", []),
            weight_decay=self._config.weight_decay,
            momentum=self._config.momentum,
            lr=group.now,
            dampening=0.0,
            nesterov=self._config.nesterov,
            maximize=False,
            is_first_step=False,
            found_inf=skip,
        )

    def _adam(self, group: _Group, gradients: list[Any], skip: Tensor | None) -> None:
        steps = group.state["steps"]
        _kernels._foreach_add_(steps, 1)
        _kernels._fused_adam_(
            group.parameters,
            gradients,
            group.state["mean"],
            group.state["square"],
            [],
            steps,
            lr=group.now,
            beta1=self._config.momentum,
            beta2=ADAM_SQUARE,
            weight_decay=0.0,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
            found_inf=skip,
        )
        if skip is not None:
            _kernels._foreach_sub_(steps, [skip] * len(steps))


def _first_adam(parameters: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    return {
        "steps": [torch.zeros((), device=parameter.device) for parameter in parameters],
        "mean": [torch.zeros_like(parameter) for parameter in parameters],
        "square": [torch.zeros_like(parameter) for parameter in parameters],
    }


@contextmanager
def after_each_update(call: Callable[[], None]) -> Iterator[None]:
    """Let something be called after each update that is made, by whichever optimiser, inside the block."""
    _listeners.append(call)
    try:
        yield
    finally:
        _listeners.remove(call)


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
