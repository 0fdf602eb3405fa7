"""Pictures of what a network does to fixed images of a frozen set."""

import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from stn_cli.datasets.loader import FrozenSet
from stn_cli.drawing.panels import image_grid, warp_panel
from stn_cli.models.network import Network
from stn_cli.training.runtime import Runtime


def warp_picture(
    network: Network, frozen: FrozenSet, index: Int64[Tensor, "n"], classes: tuple[str, ...], runtime: Runtime
) -> Image.Image:
    """Return a picture of the images at `index`: input, sampling grid over it, output, and what was predicted.

    A network without a transformer gets its inputs and predictions shown. Leaves the network in the mode it was in.
    """
    was_training = network.training
    network.eval()
    batch = frozen.take(index)
    with torch.inference_mode(), runtime.autocast():
        logits, warps = network(batch.images.contiguous(memory_format=runtime.memory_format))
    network.train(was_training)
    predicted, true = logits.argmax(dim=1).tolist(), batch.targets.tolist()
    captions = [f"{classes[t]} → {classes[p]}" for t, p in zip(true, predicted, strict=True)]
    wrong = [t != p for t, p in zip(true, predicted, strict=True)]
    images = batch.images.cpu()
    if not warps:
        return image_grid(images, captions, wrong=wrong)
    return warp_panel(images, warps[0].grid.cpu(), warps[0].output.cpu(), captions, wrong=wrong)
