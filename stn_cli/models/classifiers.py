"""The paper's digit classifiers, FCN and CNN (section 4.1, appendix A.4)."""

from collections.abc import Callable

from torch import nn

from stn_cli.models.convolution import ConvolutionStage

Widths = tuple[int, int]


def fully_connected_classifier(channels: int, in_size: tuple[int, int], classes: int, widths: Widths) -> nn.Sequential:
    """Return the FCN: two hidden fully connected layers of `widths` units and the output layer."""
    first, second = widths
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * in_size[0] * in_size[1], first),
        nn.ReLU(),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, classes),
    )


def convolutional_classifier(channels: int, in_size: tuple[int, int], classes: int, widths: Widths) -> nn.Sequential:
    """Return the CNN: conv 9×9 – max-pool 2 – conv 7×7 – max-pool 2 – output layer, `widths` filters.

    Stride 1, no padding. Inputs of 21 pixels or more; pooling rounds up, so that the 7×7 convolution fits what
    average pooling leaves of a 42-pixel warp (21 → 13 → 7, R).
    """
    first, second = widths
    height, width = (-(-(-(-(side - 8) // 2) - 6) // 2) for side in in_size)
    return nn.Sequential(
        ConvolutionStage(channels, first, 9, pool=2, ceil_mode=True),
        ConvolutionStage(first, second, 7, pool=2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(second * height * width, classes),
    )


Classifier = Callable[[int, tuple[int, int], int, Widths], nn.Sequential]

CLASSIFIERS: dict[str, Classifier] = {"fcn": fully_connected_classifier, "cnn": convolutional_classifier}
