"""What a network does to images, transformer by transformer: with its own θ, or with another."""

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_cli.models.grid_generators import ThinPlateSplineGrid
from stn_cli.models.network import Network
from stn_cli.models.place import NamedWarp, Place
from stn_cli.training.runtime import Runtime

IMAGE_PLACES = ("input", "conv1")  # what stands deeper sees feature maps


class PlaceLook(NamedTuple):
    """What the transformers at one place do to what they see: images, or the mean of feature maps, in 0..1.

    `place`: its name, "input". `names`: of its transformers. `outputs`: of each, as `maps`. `grids`: of each one
    sampling grid on `maps`, through the transformers before it, or several after transformers in parallel. `points`: of
    each its control points, likewise; none of one that is no spline. All on the CPU.
    """

    place: str
    names: list[str]
    maps: Float[Tensor, "n channels height width"]
    outputs: list[Float[Tensor, "n out_channels out_height out_width"]]
    grids: list[list[Float[Tensor, "n grid_height grid_width 2"]]]
    points: list[list[Float[Tensor, "n k 2"]]]


class Look(NamedTuple):
    """What a network does to images. `predicted` and `sure`: the likeliest class and its probability."""

    probabilities: Float[Tensor, "n classes"]
    thetas: dict[str, Float[Tensor, "n parameters"]]
    places: list[PlaceLook]

    @property
    def predicted(self) -> list[int]:
        """The likeliest classes."""
        return self.probabilities.argmax(dim=1).tolist()

    @property
    def sure(self) -> list[float]:
        """Their probabilities."""
        return self.probabilities.amax(dim=1).tolist()


def look_at_images(
    network: Network,
    images: Float[Tensor, "n channels height width"],
    runtime: Runtime,
    thetas: Mapping[str, Float[Tensor, "n parameters"]] | None = None,
) -> Look:
    """Return what a network does to images. Leaves it in the mode it was in.

    `thetas`: what transformers take, by their names, instead of what their localisation networks say.
    """
    was_training = network.training
    network.eval()
    seen: dict[nn.Module, Tensor] = {}

    def note(place: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[place] = given[0]

    hooks = [place.register_forward_pre_hook(note) for place in network.places.values()]
    for place in network.by_place.values():
        for name, transformer in zip(place.names, place.transformers, strict=True):
            if thetas is not None and name in thetas:
                theta = thetas[name].to(runtime.device)
                hooks.append(transformer.localisation.register_forward_hook(lambda *_, theta=theta: theta))
    try:
        with torch.inference_mode(), runtime.autocast():
            logits, warps = network(images.to(runtime.device).contiguous(memory_format=runtime.memory_format))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    waiting = iter(warps)
    places = [
        _at_place(name, place, seen[place], list(islice(waiting, len(place.members))))
        for name, place in network.by_place.items()
    ]
    return Look(logits.softmax(dim=1).cpu(), {warp.name: warp.theta.cpu() for warp in warps}, places)


def _at_place(name: str, place: Place, maps: Tensor, warps: list[NamedWarp]) -> PlaceLook:
    outputs = [warp.output for warp in warps]
    if name not in IMAGE_PLACES:
        brightest = maps.float().mean(dim=1, keepdim=True).amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        maps, *outputs = (shown.float().mean(dim=1, keepdim=True) / brightest for shown in (maps, *outputs))
    grids = [[grid.cpu() for grid in own] for own in place.composed(warps)]
    shown = [output.cpu() for output in outputs]
    return PlaceLook(name, list(place.names), maps.cpu(), shown, grids, _control_points(place, warps))


def _control_points(place: Place, warps: list[NamedWarp]) -> list[list[Tensor]]:
    """Return where on the map that the place sees the control points of each member are read."""
    splines = [isinstance(one.grid_generator, ThinPlateSplineGrid) for one in place.transformers]
    # θ of a spline is where its control points are read: a sampling grid of few points.
    controls = [
        warp._replace(grid=warp.theta.view(len(warp.theta), -1, 1, 2)) if spline else warp
        for spline, warp in zip(splines, warps, strict=True)
    ]
    ways = place.composed(controls)
    return [
        [way.flatten(1, 2).cpu() for way in own] if spline else [] for spline, own in zip(splines, ways, strict=True)
    ]
