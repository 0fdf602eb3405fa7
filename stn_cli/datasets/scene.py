"""What a sample is made of: one distorted digit, one among pieces of others, two that are added, one in a volume."""

from abc import ABC, abstractmethod
from typing import Literal, final

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Generator, Tensor

from stn_cli.datasets.source import Split
from stn_cli.distortions.clutter import Clutter
from stn_cli.distortions.distortion import Distortion, Parameters
from stn_cli.distortions.extrusion import Extrusion

Samples = Shaped[Tensor, "n channels ..."]


class Scene(ABC):
    """From images of a split to samples, on whatever device they lie.

    `shape`: of a sample, (channels, height, width), or (channels, depth, height, width). `classes`: names of the
    targets.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...]

    @abstractmethod
    def draw(
        self, n: int, generator: Generator, *, among: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        """Return the parameters of `n` samples.

        `among`: the number of images in the split. `own`: where each sample's image stands in the training split;
        None for images that are not of it.
        """

    @abstractmethod
    def make(self, split: Split, index: Int64[Tensor, "n"], parameters: Parameters, *, exact: bool = False) -> Samples:
        """Return the samples of the images at `index`: floats in 0..1, or `exact` bytes, the same on every machine."""

    @abstractmethod
    def true_map(self, parameters: Parameters) -> Float[Tensor, "n ..."]:
        """Return the exact output → input map of every sample, for each of its pixels the point of the image it shows.

        [n, height, width, 2] with (x, y) normalised to −1..1 over the image; two such maps, [n, 2, height, width, 2],
        where a sample shows two images; [n, depth, height, width, 3] for volumes, z −1..1 over the digit's depth.
        """


@final
class Single(Scene):
    """One digit under a distortion, or as it is. R, RTS, P, E, T and chains of them."""

    def __init__(self, distortion: Distortion | None, in_shape: tuple[int, int, int], classes: tuple[str, ...]) -> None:
        self.distortion = distortion
        self.shape = in_shape if distortion is None else (in_shape[0], *distortion.canvas)
        self.classes = classes
        self._in_size = in_shape[1:]

    def draw(
        self, n: int, generator: Generator, *, among: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        return {} if self.distortion is None else self.distortion.draw(n, generator)

    def make(self, split: Split, index: Int64[Tensor, "n"], parameters: Parameters, *, exact: bool = False) -> Samples:
        return _distorted(self.distortion, split.images.index_select(0, index), parameters, exact)

    def true_map(self, parameters: Parameters) -> Float[Tensor, "n ..."]:
        if self.distortion is None:
            raise ValueError("images as they are have no map")
        return self.distortion.grid(parameters)


@final
class Cluttered(Scene):
    """One digit under a distortion, among pieces of other training images. TC."""

    def __init__(
        self,
        distortion: Distortion,
        clutter: Clutter,
        others: UInt8[Tensor, "m channels in_height in_width"],
        classes: tuple[str, ...],
    ) -> None:
        self.distortion = distortion
        self.clutter = clutter
        self.shape = (others.shape[1], *distortion.canvas)
        self.classes = classes
        self._others = others

    def draw(
        self, n: int, generator: Generator, *, among: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        pieces = self.clutter.draw(n, generator, others=len(self._others), own=own)
        return self.distortion.draw(n, generator) | pieces

    def make(self, split: Split, index: Int64[Tensor, "n"], parameters: Parameters, *, exact: bool = False) -> Samples:
        self._others = self._others.to(split.images.device)  # moves once
        canvases = _distorted(self.distortion, split.images.index_select(0, index), parameters, exact)
        return self.clutter.apply(canvases, self._others, parameters)

    def true_map(self, parameters: Parameters) -> Float[Tensor, "n ..."]:
        return self.distortion.grid(parameters)


@final
class Addition(Scene):
    """Two digits, each under its own distortion in a channel of its own; the target is their sum (appendix A.1).

    The first is the image at the index, the second any of the split. Classes are numbered as digits are, from 0.
    """

    def __init__(self, distortion: Distortion, classes: tuple[str, ...]) -> None:
        self.distortion = distortion
        self.shape = (2, *distortion.canvas)
        self.classes = tuple(str(total) for total in range(2 * len(classes) - 1))

    def draw(
        self, n: int, generator: Generator, *, among: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        first, second = (self.distortion.draw(n, generator) for _ in range(2))
        drawn = {f"first.{name}": value for name, value in first.items()}
        drawn |= {f"second.{name}": value for name, value in second.items()}
        return drawn | {"second_image": torch.randint(among, (n,), generator=generator, device=generator.device)}

    def make(self, split: Split, index: Int64[Tensor, "n"], parameters: Parameters, *, exact: bool = False) -> Samples:
        first, second = split.images[index], split.images[parameters["second_image"]]
        channels = [
            _distorted(self.distortion, first, of_digit(parameters, "first"), exact),
            _distorted(self.distortion, second, of_digit(parameters, "second"), exact),
        ]
        return torch.cat(channels, dim=1)

    def true_map(self, parameters: Parameters) -> Float[Tensor, "n ..."]:
        return torch.stack(
            [
                self.distortion.grid(of_digit(parameters, "first")),
                self.distortion.grid(of_digit(parameters, "second")),
            ],
            dim=1,
        )


@final
class Volume(Scene):
    """One digit extruded and placed in a volume (appendix A.3)."""

    def __init__(self, extrusion: Extrusion, channels: int, classes: tuple[str, ...]) -> None:
        self.extrusion = extrusion
        self.shape = (channels, *[extrusion.side] * 3)
        self.classes = classes

    def draw(
        self, n: int, generator: Generator, *, among: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Shaped[Tensor, "n ..."]]:
        return self.extrusion.draw(n, generator)

    def make(self, split: Split, index: Int64[Tensor, "n"], parameters: Parameters, *, exact: bool = False) -> Samples:
        images = split.images[index]
        if exact:
            return self.extrusion.render(images, parameters)
        return self.extrusion.apply(images / 255, parameters)

    def true_map(self, parameters: Parameters) -> Float[Tensor, "n ..."]:
        return self.extrusion.grid(parameters)


def targets_of(split: Split, index: Int64[Tensor, "n"], parameters: Parameters) -> Int64[Tensor, "n"]:
    """Return the classes of samples: that of the image, or the sum of two where there is a second image."""
    targets = split.targets.index_select(0, index)
    return targets + split.targets[parameters["second_image"]] if "second_image" in parameters else targets


def _distorted(
    distortion: Distortion | None, images: UInt8[Tensor, "n c h w"], parameters: Parameters, exact: bool
) -> Shaped[Tensor, "n channels height width"]:
    if exact:
        return images if distortion is None else distortion.render(images, parameters)
    levels = images / 255  # one pass, where float() and a division are two
    return levels if distortion is None else distortion.apply(levels, parameters)


def of_digit(parameters: Parameters, which: Literal["first", "second"]) -> dict[str, Tensor]:
    """Return the parameters of one of the two digits of an addition, by their own names."""
    prefix = f"{which}."
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
