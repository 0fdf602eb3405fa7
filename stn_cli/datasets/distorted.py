"""Folders of distorted images, as `stn distort-dataset` writes and `stn train` reads them.

<folder>/…                           both splits, in one of the `FORMATS`
<folder>/parameters-*.safetensors    the true parameters of every sample, and which image it shows, `source_image`
<folder>/preview.png                 originals beside distorted images, of the test split
<folder>/manifest.json               kind, ranges, seed, counts, hashes; written last, so its presence means complete
<folder>/unfinished.json             the recipe, while the folder is being written
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from stn_cli import __version__
from stn_cli.datasets.download import alone
from stn_cli.datasets.format import SplitName
from stn_cli.datasets.formats import FORMATS
from stn_cli.datasets.loader import BatchLoader, FrozenSet, first_of_each_class
from stn_cli.datasets.manifest import MANIFEST, SCHEMA, UNFINISHED, read_manifest, verify, write_manifest
from stn_cli.datasets.parameters import Draws, bytes_per_sample, draw_copies, write_parameters
from stn_cli.datasets.scene import Scene
from stn_cli.datasets.source import Source, Split
from stn_cli.drawing.panels import before_after_panel
from stn_cli.errors import DataError, ResourceError, UsageError
from stn_cli.storage import write_bytes, write_json

SPLITS: tuple[SplitName, ...] = ("train", "test")
PREVIEW = "preview.png"
CHUNK = 512  # samples rendered at once
CHUNK_PIXELS = 1 << 19  # but no more pixels than these: what the processor's caches hold


@dataclass(frozen=True)
class Recipe:
    """What a folder is made from, and how it is kept.

    `distortion`: its settings. `copies`: distortions of every image, the whole split over and over again. `limit`: only
    so many images from the first of each split on. Neither changes a sample that would be there without it.
    """

    dataset: str
    distortion: dict[str, Any]
    seed: int
    format: str
    copies: int = 1
    limit: int | None = None


def choose_format(asked: str | None, scene: Scene) -> str:
    """Return the format asked for, else the first that can keep such samples: IDX, PNG, safetensors.

    Raises:
        UsageError: the format cannot keep them.
    """
    refusals = {name: known.refusal(scene.shape, scene.classes) for name, known in FORMATS.items()}
    fitting = [name for name, refusal in refusals.items() if refusal is None]
    if asked is not None and asked not in FORMATS:
        raise UsageError(f"there is no format {asked!r}", f"Choose from {', '.join(fitting)}.")
    if asked is not None and asked not in fitting:
        raise UsageError(f"{refusals[asked]}", f"Choose from {', '.join(fitting)} with --format.")
    return asked or fitting[0]


def write_distorted(source: Source, scene: Scene, recipe: Recipe, folder: Path) -> Iterator[tuple[int, int]]:
    """Write both splits, yielding (samples done, samples in all) on the way.

    The same recipe writes the same bytes, into an empty folder or over a run of itself that was killed; a sound folder
    is left as it is. Only one chunk of samples is in memory at a time.

    Raises:
        UsageError: the folder holds something else, or the format cannot keep these samples.
        ResourceError: the disk has too little room, the folder cannot be written, or another process writes it for
            too long.
    """
    choose_format(recipe.format, scene)
    head = _head(source, recipe)
    _refuse_other_content(folder, head)
    if not (folder / MANIFEST).exists():
        _refuse_a_full_disk(source, scene, recipe, folder)
    with alone(folder / MANIFEST):
        _refuse_other_content(folder, head)  # another process may have come first
        if _is_whole(folder):
            total = sum(_count(split, recipe) for _, split in _splits(source))
            yield total, total  # nothing that is sound is put at risk
        else:
            yield from _write(source, scene, recipe, head, folder)
        for leftover in [folder / UNFINISHED, *folder.rglob(".*.tmp")]:  # temporary files of a run that was killed
            leftover.unlink(missing_ok=True)


def _write(
    source: Source, scene: Scene, recipe: Recipe, head: dict[str, Any], folder: Path
) -> Iterator[tuple[int, int]]:
    write_json(folder / UNFINISHED, head)
    (folder / MANIFEST).unlink(missing_ok=True)
    counts = {name: _count(split, recipe) for name, split in _splits(source)}
    total, done, hashes = sum(counts.values()), 0, dict[str, str]()
    for name, split in _splits(source):
        draws = _draws(source, scene, recipe, name, split)
        targets = torch.cat([frozen.targets for frozen in draws()])
        opened = FORMATS[recipe.format].writer(folder, name, targets, scene.shape, scene.classes)
        with opened as writer:
            for frozen in draws():
                for index in torch.arange(len(frozen)).split(_chunk(scene)):
                    writer.add(frozen.render(index))
                    done += len(index)
                    yield done, total
        hashes |= writer.sha256
        parameters = parameters_file(folder, name)
        hashes[parameters.name] = write_parameters(parameters, draws, counts[name])
    first = next(_draws(source, scene, recipe, "test", source.test)())
    hashes[PREVIEW] = _write_preview(folder, source.test, scene, first)
    if recipe.format == "png" and hasattr(os, "sync"):
        os.sync()  # once, instead of once per file
    manifest = {
        **head,
        "classes": list(scene.classes),
        "images": counts,
        "sample_shape": list(scene.shape),
        "versions": {"stn": __version__, "torch": torch.__version__},
        "sha256": hashes,
    }
    write_manifest(folder, manifest)


def read_distorted(folder: Path) -> Source:
    """Return the images of a folder that `write_distorted` finished; every file is checked first.

    Raises:
        DataError: the manifest or a file is missing, damaged or of another version, or the folder holds volumes.
    """
    verify(folder)
    manifest = read_manifest(folder)
    shape, classes = manifest["sample_shape"], tuple(manifest["classes"])
    if len(shape) != 3:
        raise DataError(f"{folder} holds volumes, which no network here takes", "Read them with `map_samples`.")
    splits = {
        name: FORMATS[manifest["format"]].read(folder, name, manifest["images"][name], shape, classes)
        for name in SPLITS
    }
    return Source(
        name=folder.resolve().name,
        train=splits["train"],
        test=splits["test"],
        classes=classes,
        lineage=_lineage(manifest),
    )


def map_samples(folder: Path, split: SplitName = "test") -> tuple[UInt8[Tensor, "n ..."], Int64[Tensor, "n"]]:
    """Return the samples and targets of a split, mapped into memory: only what is used is read from the disk.

    For volumes, which fill 13 GB. The files are not checked; `stn distort-dataset --verify` does.

    Raises:
        DataError: the manifest or a file is missing, or of another size than it says.
        ValueError: the folder holds PNG files.
    """
    manifest = read_manifest(folder)
    kept, count, shape = FORMATS[manifest["format"]], manifest["images"][split], manifest["sample_shape"]
    return kept.mapped(folder, split, count, shape), kept.targets(folder, split, count, shape, manifest["classes"])


def parameters_file(folder: Path, split: SplitName) -> Path:
    """Return the path of a split's true parameters."""
    return folder / f"parameters-{split}.safetensors"


def _lineage(manifest: dict[str, Any]) -> str:
    """Return what the samples follow from, and nothing that differs between machines or formats."""
    made_from = [manifest[key] for key in ("distortion", "seed", "copies", "limit")]
    text = json.dumps([manifest["source"]["sha256"], *made_from], sort_keys=True)
    return f" of {hashlib.sha256(text.encode()).hexdigest()}"


def _splits(source: Source) -> list[tuple[SplitName, Split]]:
    return [("train", source.train), ("test", source.test)]


def _count(split: Split, recipe: Recipe) -> int:
    return recipe.copies * min(len(split), recipe.limit or len(split))


def _chunk(scene: Scene) -> int:
    return max(1, min(CHUNK, CHUNK_PIXELS // math.prod(scene.shape)))


def _draws(source: Source, scene: Scene, recipe: Recipe, name: SplitName, split: Split) -> Draws:
    """Return what draws the copies of a split; the first is what training and evaluation without a folder have."""
    own = torch.arange(len(split)) if name == "train" else None
    loader = BatchLoader(split, scene, torch.device("cpu"), own=own)
    purposes = [f"{name}{f' copy {copy}' if copy else ''}{source.lineage}" for copy in range(recipe.copies)]
    return draw_copies(loader, recipe.seed, purposes, recipe.limit)


def _write_preview(folder: Path, split: Split, scene: Scene, frozen: FrozenSet) -> str:
    """Draw two samples or so of every class beside their originals, and return the file's hash."""
    targets = frozen.targets
    index = first_of_each_class(targets, len(scene.classes), 20)
    originals, samples = split.images[index], frozen.render(index)
    if "second_image" in frozen.parameters:
        originals = torch.cat([originals, split.images[frozen.parameters["second_image"][index]]], dim=3)
    if samples.ndim == 5:  # seen from the front, from above and from the side
        samples = torch.cat([samples.amax(dim=2), samples.amax(dim=3), samples.amax(dim=4)], dim=3)
    captions = [scene.classes[target] for target in targets[index].tolist()]
    content = BytesIO()
    before_after_panel(originals.float() / 255, samples.float() / 255, captions).save(content, "PNG")
    write_bytes(folder / PREVIEW, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def _head(source: Source, recipe: Recipe) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(recipe), "source": describe(source)}


def describe(source: Source) -> dict[str, Any]:
    """Return what a dataset is, with the SHA-256 of all its images and targets."""
    digest = hashlib.sha256()
    for _, split in _splits(source):
        for tensor in (split.images, split.targets):
            digest.update(tensor.contiguous().numpy().data)
    shape, classes = list(source.shape), list(source.classes)
    return {"name": source.name, "shape": shape, "classes": classes, "sha256": digest.hexdigest()}


def _is_whole(folder: Path) -> bool:
    try:
        verify(folder)
    except DataError:
        return False
    return True


def _refuse_a_full_disk(source: Source, scene: Scene, recipe: Recipe, folder: Path) -> None:
    samples = sum(_count(split, recipe) for _, split in _splits(source))
    image = 4096 if recipe.format == "png" else math.prod(scene.shape)  # a block of the disk for each PNG file
    needed = samples * (image + bytes_per_sample(scene))
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ResourceError(
            f"{folder} needs {needed / 1e9:.1f} GB, its disk has {free / 1e9:.1f} GB left",
            "Free some space, choose another --out, or fewer images with --limit.",
        )


def _refuse_other_content(folder: Path, head: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this recipe, finished or not: somebody's own MNIST may lie there."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Choose a folder with --out.")
    for claim in (folder / MANIFEST, folder / UNFINISHED):
        if claim.is_file():
            if not _is_of(claim, head):
                raise UsageError(f"{folder} holds another dataset", "Choose another folder with --out, or remove it.")
            return
    there = [path.name for path in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in there if not name.startswith((f".{UNFINISHED}.", f".{MANIFEST}."))]
    if foreign:
        raise UsageError(f"{folder} holds other files ({foreign[0]})", "Choose an empty folder with --out.")


def _is_of(claim: Path, head: dict[str, Any]) -> bool:
    try:
        found = json.loads(claim.read_bytes())
        return all(found[key] == value for key, value in json.loads(json.dumps(head)).items())
    except (ValueError, KeyError, TypeError):
        return False
