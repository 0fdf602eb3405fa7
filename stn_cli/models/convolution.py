"""The paper's stage of a convolutional network, convolution – max-pooling – ReLU, in the order that costs least."""

from typing import Literal, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from stn_cli.errors import UsageError
from stn_cli.models.banded_convolution import Workspaces, banded_stage
from stn_cli.models.compiled_convolution import compiled_stage

Convolutions = Literal["library", "banded", "compiled"]


@final
class ConvolutionStage(nn.Conv2d):
    """Convolution, stride 1 and no padding; then max-pooling by `pool` (1: none); then ReLU.

    Bias and ReLU come after the pooling: they commute with it, and there a quarter of the values is left to add to and
    to differentiate. Pooling rounds up if `ceil_mode`. `convolutions` says who computes it: PyTorch's library, step by
    step and on any device, or, for CPUs, `banded_stage` or `compiled_stage`; they differ in rounding and in time.
    """

    convolutions: Convolutions = "library"

    def __init__(self, channels: int, filters: int, side: int, *, pool: int = 1, ceil_mode: bool = False) -> None:
        super().__init__(channels, filters, side)  # pyright: ignore[reportUnknownMemberType] - untyped in torch
        self.pool = pool
        self.ceil_mode = ceil_mode
        self._workspaces = Workspaces()

    def forward(self, input: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n filters h w"]:
        """Return the stage's output, in the precision of the surrounding autocast, or wider."""
        device, weight, bias = input.device.type, self.weight, self.bias
        assert bias is not None
        # autocast knows conv2d, but neither our own product nor the late bias
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        if self.convolutions == "compiled":
            return compiled_stage(input, weight, bias, pool=self.pool, ceil_mode=self.ceil_mode, precision=precision)
        if self.convolutions == "banded":
            return banded_stage(
                input,
                weight,
                bias,
                pool=self.pool,
                ceil_mode=self.ceil_mode,
                precision=precision,
                workspaces=self._workspaces,
            )
        output = conv2d(input.to(precision), weight.to(precision))
        if self.pool > 1:
            output = max_pool2d(output, self.pool, ceil_mode=self.ceil_mode)
        return relu(output + bias.to(precision)[:, None, None])


def stages_of(network: nn.Module) -> list[ConvolutionStage]:
    """Return the convolution stages of a network in their order."""
    return [module for module in network.modules() if isinstance(module, ConvolutionStage)]


def choose_convolutions(network: nn.Module, ways: str) -> None:
    """Say who convolves: one way for all stages of a network, or one for each with commas, "banded,library".

    Raises:
        UsageError: there are not as many ways as stages.
    """
    stages, chosen = stages_of(network), cast("list[Convolutions]", ways.split(","))
    if len(chosen) == 1:
        chosen *= len(stages)
    if len(chosen) != len(stages):
        raise UsageError(
            f"runtime.convolutions has {len(chosen)} ways for {len(stages)} convolutions", "Set it to auto or library."
        )
    for stage, way in zip(stages, chosen, strict=True):
        stage.convolutions = way
