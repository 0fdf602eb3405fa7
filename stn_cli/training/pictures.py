"""Pictures of what a network does to fixed images of a frozen set."""

from itertools import islice

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor, nn

from stn_cli.datasets.loader import FrozenSet
from stn_cli.drawing.panels import image_grid, warps_panel
from stn_cli.drawing.sheet import stacked
from stn_cli.models.network import Network
from stn_cli.models.place import NamedWarp, Place
from stn_cli.training.runtime import Runtime


def warp_picture(
    network: Network, frozen: FrozenSet, index: Int64[Tensor, "n"], classes: tuple[str, ...], runtime: Runtime
) -> Image.Image:
    """Return a picture of the images at `index`: input, sampling grid over it, output, and what was predicted.

    Transformers at several places have a panel each, deeper ones over the mean of their feature maps. A network without
    a transformer gets its inputs and predictions shown. Leaves the network in the mode it was in.
    """
    was_training = network.training
    network.eval()
    batch, seen = frozen.take(index), dict[nn.Module, Tensor]()

    def note(place: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[place] = given[0]

    hooks = [place.register_forward_pre_hook(note) for place in network.places.values()]
    with torch.inference_mode(), runtime.autocast():
        logits, warps = network(batch.images.contiguous(memory_format=runtime.memory_format))
    for hook in hooks:
        hook.remove()
    network.train(was_training)
    predicted, true = logits.argmax(dim=1).tolist(), batch.targets.tolist()
    captions = [f"{classes[t]} → {classes[p]}" for t, p in zip(true, predicted, strict=True)]
    wrong = [t != p for t, p in zip(true, predicted, strict=True)]
    if not warps:
        return image_grid(batch.images.cpu(), captions, wrong=wrong)
    panels: list[Image.Image] = []
    waiting = iter(warps)
    for name, place in network.by_place.items():
        own = list(islice(waiting, len(place.members)))
        panels.append(_place_panel(name, place, seen[place], own, captions, wrong))
    return stacked(panels)


def _place_panel(
    name: str, place: Place, maps: Tensor, warps: list[NamedWarp], captions: list[str], wrong: list[bool]
) -> Image.Image:
    """Return what the transformers at a place do to what they see: images, or the mean of the feature maps."""
    outputs = [warp.output for warp in warps]
    if name not in ("input", "conv1"):
        brightest = maps.float().mean(dim=1, keepdim=True).amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        maps, *outputs = (shown.float().mean(dim=1, keepdim=True) / brightest for shown in (maps, *outputs))
    grids = [[grid.cpu() for grid in own] for own in place.composed(warps)]
    headings = ["input" if name == "input" else f"before {name}"]
    headings += ["sampling grid", "output"] if len(warps) == 1 else ["sampling grids", *place.names]
    shown = [output.cpu() for output in outputs]
    columns = 2 if len(warps) < 4 else 1
    return warps_panel(maps.cpu(), grids, shown, headings, captions, wrong=wrong, columns=columns)
