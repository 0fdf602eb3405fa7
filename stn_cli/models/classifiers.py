"""The paper's digit classifiers, FCN and CNN (section 4.1, appendix A.4)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from stn_cli.errors import UsageError
from stn_cli.models.convolution import ConvolutionStage

Widths = tuple[int, int]


class MapShape(NamedTuple):
    """What a layer sees: channels and (height, width)."""

    channels: int
    size: tuple[int, int]


# Says what becomes of a map before a named layer of the classifier, "conv2", where transformers may stand.
Before = Callable[[str, MapShape], MapShape]


def unchanged(layer: str, shape: MapShape) -> MapShape:
    """Return the shape as it is: no transformers."""
    return shape


def fully_connected_classifier(
    channels: int,
    in_size: tuple[int, int],
    classes: int,
    widths: Widths,
    before: Before = unchanged,
    fed: int = 0,
) -> nn.Sequential:
    """Return the FCN: two hidden fully connected layers of `widths` units and the output layer.

    None of its layers sees a map, so `before` is not asked. `fed`: as for the CNN.
    """
    first, second = widths
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * in_size[0] * in_size[1], first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second + fed, classes),
    )


def convolutional_classifier(
    channels: int,
    in_size: tuple[int, int],
    classes: int,
    widths: Widths,
    before: Before = unchanged,
    fed: int = 0,
) -> nn.Sequential:
    """Return the CNN: conv 9×9 – max-pool 2 – conv 7×7 – max-pool 2 – output layer, `widths` filters.

    Stride 1, no padding; pooling rounds up, so that the 7×7 convolution fits what average pooling leaves of a 42-pixel
    warp (21 → 13 → 7, R). `before`: what becomes of the maps before conv1 and conv2. `fed`: numbers that the output
    layer sees beside the last map, put after them.

    Raises:
        UsageError: a map is smaller than the filters that it meets.
    """
    stages: list[ConvolutionStage] = []
    shape = MapShape(channels, in_size)
    for number, (side, filters) in enumerate(zip((9, 7), widths, strict=True), start=1):
        layer = f"conv{number}"
        seen, (height, width) = before(layer, shape)
        if min(height, width) < side:
            raise UsageError(
                f"maps of {height}×{width} pixels are too small for {layer} of the cnn, with filters of {side}×{side}",
                "Use larger images, a larger out_size, or less model.pool.",
            )
        stages.append(ConvolutionStage(seen, filters, side, pool=2, ceil_mode=True))
        shape = MapShape(filters, (-(-(height - side + 1) // 2), -(-(width - side + 1) // 2)))
    features = shape.channels * shape.size[0] * shape.size[1]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(features + fed, classes))


Classifier = Callable[[int, tuple[int, int], int, Widths, Before, int], nn.Sequential]

CLASSIFIERS: dict[str, Classifier] = {"fcn": fully_connected_classifier, "cnn": convolutional_classifier}
