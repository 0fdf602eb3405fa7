"""What was truly done to the samples of a folder, from the parameters that lie beside them."""

from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors.torch import load_file
from torch import Tensor

from stn_cli.datasets.build import rebuild_scene
from stn_cli.datasets.distorted import map_samples, parameters_file
from stn_cli.datasets.format import SplitName
from stn_cli.datasets.formats import FORMATS
from stn_cli.datasets.manifest import read_manifest
from stn_cli.datasets.scene import Addition, Cluttered, Scene, Single, Volume, of_digit
from stn_cli.distortions.distortion import Parameters
from stn_cli.errors import DataError
from stn_cli.storage import sha256_of


def true_map(
    folder: Path, split: SplitName = "test", index: Int64[Tensor, "n"] | None = None
) -> Float[Tensor, "n ..."]:
    """Return the exact output → input map of samples, in float64: the sampling grid they were made with.

    `index`: which samples; all unless said otherwise. For each pixel the (x, y) of the point of the original image that
    it shows, −1..1 from edge to edge: [n, height, width, 2]; two such maps for an addition, [n, 2, height, width, 2];
    for volumes [n, depth, height, width, 3], z −1..1 over the digit's depth. Pieces of clutter are not mapped.

    Raises:
        DataError: the folder is not finished, or its manifest or its parameters are damaged.
    """
    scene, parameters = read_truth(folder, split, index)
    return scene.true_map({name: value.double() for name, value in parameters.items()})


def undo(
    folder: Path, split: SplitName = "test", index: Int64[Tensor, "n"] | None = None
) -> Float[Tensor, "n channels in_height in_width"]:
    """Return the original images, 0..1, as far as samples still show them: the true map undone, read bilinearly.

    Of an addition, both digits, one per channel; of a volume, the digit half way through its depth. What a distortion
    pushed out of view is black.

    Raises:
        DataError: as `true_map`, or the images are damaged. Volumes are not checked, since they are mapped.
    """
    manifest = read_manifest(folder)
    scene, parameters = read_truth(folder, split, index)
    if isinstance(scene, Volume):
        volumes = map_samples(folder, split)[0]
        return scene.extrusion.undo(volumes if index is None else volumes[index], parameters) / 255
    if not isinstance(scene, Single | Cluttered | Addition):
        raise TypeError(f"{scene} cannot be undone")
    count, shape, classes = manifest["images"][split], manifest["sample_shape"], manifest["classes"]
    images = FORMATS[manifest["format"]].read(folder, split, count, shape, classes).images
    samples = (images if index is None else images[index]).float() / 255
    if isinstance(scene, Addition):
        digits = zip(samples.split(1, dim=1), ("first", "second"), strict=True)
        return torch.cat([scene.distortion.undo(digit, of_digit(parameters, which)) for digit, which in digits], dim=1)
    return samples if scene.distortion is None else scene.distortion.undo(samples, parameters)


def read_truth(
    folder: Path, split: SplitName = "test", index: Int64[Tensor, "n"] | None = None
) -> tuple[Scene, Parameters]:
    """Return what samples of a folder are made of, and their parameters.

    Raises:
        DataError: as `true_map`.
    """
    manifest = read_manifest(folder)
    file = parameters_file(folder, split)
    found = sha256_of(file) if file.is_file() else "missing"
    if found != manifest["sha256"].get(file.name):
        raise DataError(f"{file} is not what was written: found {found}", "Run `stn distort-dataset --verify` on it.")
    parameters = load_file(file)
    scene = rebuild_scene(manifest["distortion"], manifest["source"]["shape"], manifest["source"]["classes"])
    return scene, parameters if index is None else {name: value[index] for name, value in parameters.items()}
