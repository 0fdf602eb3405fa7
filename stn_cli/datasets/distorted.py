"""Folders of distorted images, as `stn distort-dataset` writes and `stn train` reads them.

<folder>/MNIST/raw/*-ubyte           both splits, as torchvision.datasets.MNIST(<folder>) reads them
<folder>/parameters-*.safetensors    the true parameters of every image
<folder>/preview.png                 originals beside distorted images, of the test split
<folder>/manifest.json               kind, ranges, seed, counts, hashes; written last, so its presence means complete
<folder>/unfinished.json             the recipe, while the folder is being written
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from safetensors.torch import save
from torch import Tensor

from stn_cli import __version__
from stn_cli.datasets.download import alone
from stn_cli.datasets.idx import read_labelled, write_idx
from stn_cli.datasets.loader import BatchLoader, FrozenSet, first_of_each_class
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.distortion import Distortion
from stn_cli.drawing.panels import before_after_panel
from stn_cli.errors import DataError, UsageError
from stn_cli.storage import sha256_of, write_bytes, write_json

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
PREVIEW = "preview.png"
SCHEMA = 1
MOST_CLASSES = 256  # in IDX labels of one byte
FILES = {"train": "train", "test": "t10k"}  # our splits → torchvision's file names
AGAIN = "Remove the folder, then run `stn distort-dataset` again."
CHUNK = 1024  # images distorted at once; bounds the memory to about 100 MB


@dataclass(frozen=True)
class Recipe:
    """What a folder is made from: the dataset, the distortion's resolved settings and the seed."""

    dataset: str
    distortion: dict[str, Any]
    seed: int


def write_distorted(source: Source, distortion: Distortion, recipe: Recipe, folder: Path) -> Iterator[tuple[int, int]]:
    """Write both splits, yielding (images done, images in all) on the way.

    The same recipe writes the same bytes, into an empty folder or over a run of itself that was killed.

    Raises:
        UsageError: the folder holds something else, or the images are in colour (IDX for torchvision is grey).
        ResourceError: the folder cannot be written, or another process writes it for too long.
    """
    if source.train.images.shape[1] != 1:
        raise UsageError(
            f"{source.name} is in colour", "Choose a grey dataset: torchvision's IDX files have no colour."
        )
    if len(source.classes) > MOST_CLASSES:
        raise UsageError(
            f"{source.name} has {len(source.classes)} classes, a label file has room for {MOST_CLASSES}",
            "Choose another dataset.",
        )
    _refuse_other_content(folder, recipe)
    with alone(folder / MANIFEST):
        _refuse_other_content(folder, recipe)  # another process may have come first
        yield from _write(source, distortion, recipe, folder)


def _write(source: Source, distortion: Distortion, recipe: Recipe, folder: Path) -> Iterator[tuple[int, int]]:
    write_json(folder / UNFINISHED, _head(recipe))
    (folder / MANIFEST).unlink(missing_ok=True)
    total, done = len(source.train) + len(source.test), 0
    for purpose, split in (("train", source.train), ("test", source.test)):
        frozen = FrozenSet(BatchLoader(split, distortion, torch.device("cpu")), recipe.seed, purpose)
        images: list[Tensor] = []
        for batch in frozen.batches(CHUNK):
            images.append(to_bytes(batch.images)[:, 0])
            done += len(batch.targets)
            yield done, total
        write_idx(images_file(folder, purpose), torch.cat(images))
        write_idx(labels_file(folder, purpose), split.targets.to(torch.uint8))
        write_bytes(parameters_file(folder, purpose), save(frozen.parameters))
    _write_preview(folder, source.test, images)
    files = [f(folder, p) for p in FILES for f in (images_file, labels_file, parameters_file)]
    write_json(
        folder / MANIFEST,
        {
            **_head(recipe),
            "classes": list(source.classes),
            "images": {"train": len(source.train), "test": len(source.test)},
            "size": list(distortion.canvas),
            "versions": {"stn": __version__, "torch": torch.__version__},
            "sha256": {file.relative_to(folder).as_posix(): sha256_of(file) for file in files},
        },
    )
    for leftover in [folder / UNFINISHED, *folder.rglob(".*.tmp")]:  # temporary files of a run that was killed
        leftover.unlink(missing_ok=True)


def read_distorted(folder: Path) -> Source:
    """Return the images of a folder that `write_distorted` finished.

    Raises:
        DataError: the manifest or a file is missing, damaged or of a newer version.
    """
    manifest = read_manifest(folder)
    classes = tuple(str(name) for name in manifest["classes"])
    for name, expected in manifest["sha256"].items():
        file = folder / name
        found = sha256_of(file) if file.is_file() else "missing"
        if found != expected:
            raise DataError(f"{file} is not what was written: sha256 {expected}, found {found}", "Write it again.")
    splits = {p: read_labelled(images_file(folder, p), labels_file(folder, p), len(classes)) for p in FILES}
    return Source(name=folder.resolve().name, train=splits["train"], test=splits["test"], classes=classes)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder.

    Raises:
        DataError: it is missing, no JSON, lacks a key, or is of a newer version.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(f"{folder} has no {MANIFEST}, so it was not finished", "Run `stn distort-dataset` again.")
    try:
        manifest = json.loads(file.read_bytes())
        keys = {"schema", "dataset", "distortion", "seed", "classes", "sha256"} - set(manifest)
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is no manifest: {error}", AGAIN) from error
    if keys:
        raise DataError(f"{file} lacks {', '.join(sorted(keys))}", AGAIN)
    if manifest["schema"] != SCHEMA:
        raise DataError(f"{file} has schema {manifest['schema']}, this stn reads {SCHEMA}", "Upgrade stn.")
    return manifest


def images_file(folder: Path, purpose: str) -> Path:
    """Return the path of a split's images."""
    return folder / "MNIST" / "raw" / f"{FILES[purpose]}-images-idx3-ubyte"


def labels_file(folder: Path, purpose: str) -> Path:
    """Return the path of a split's labels."""
    return folder / "MNIST" / "raw" / f"{FILES[purpose]}-labels-idx1-ubyte"


def parameters_file(folder: Path, purpose: str) -> Path:
    """Return the path of the true parameters of a split."""
    return folder / f"parameters-{purpose}.safetensors"


def to_bytes(images: Tensor) -> UInt8[Tensor, "..."]:
    """Return images in 0..1 as bytes, rounded to the nearest."""
    return images.mul(255).round().clamp(0, 255).to(torch.uint8)


def _write_preview(folder: Path, split: Split, chunks: list[Tensor]) -> None:
    """Draw two images per class, original and distorted; `chunks`: the distorted images of the split."""
    index = first_of_each_class(split.targets, int(split.targets.max()) + 1, 20)
    distorted = torch.cat(chunks)[index, None].float() / 255
    captions = [str(label) for label in split.targets[index].tolist()]
    content = BytesIO()
    before_after_panel(split.images[index].float() / 255, distorted, captions).save(content, "PNG")
    write_bytes(folder / PREVIEW, content.getvalue())


def _head(recipe: Recipe) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(recipe)}


def _refuse_other_content(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds anything but this recipe, finished or not: somebody's own MNIST may lie there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Choose a folder with --out.")
    for claim in (folder / MANIFEST, folder / UNFINISHED):
        if claim.is_file():
            if not _is_of(claim, recipe):
                raise UsageError(f"{folder} holds another dataset", "Choose another folder with --out, or remove it.")
            return
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in there if not name.startswith((f".{UNFINISHED}.", f".{MANIFEST}."))]
    if foreign:
        raise UsageError(f"{folder} holds other files ({foreign[0]})", "Choose an empty folder with --out.")


def _is_of(claim: Path, recipe: Recipe) -> bool:
    try:
        found = json.loads(claim.read_bytes())
        return all(found[key] == value for key, value in _head(recipe).items())
    except (ValueError, KeyError, TypeError):
        return False
