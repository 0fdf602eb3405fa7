"""The formats that a folder can keep images in: as torchvision reads MNIST, one PNG file each, or as tensors."""

import math
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from stn_cli.datasets.class_folders import class_folders
from stn_cli.datasets.format import Classes, Format, Images, Shape, SplitName, Targets, Writer
from stn_cli.datasets.idx import idx_header, read_idx
from stn_cli.datasets.image_file import inspect_image, read_image
from stn_cli.datasets.safetensors_header import safetensors_header
from stn_cli.datasets.source import Split
from stn_cli.errors import DataError
from stn_cli.storage import make_folder, writing

_AGAIN = "Write the folder again."
_LABELS = 256  # different ones in an IDX file of bytes
# Copied on write, and not charged to memory: without the flag that Python names from 3.13 on, Linux refuses to map a
# file larger than the memory, as torch.from_file and safetensors would have it.
_MAP_FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class _Idx(Format):
    """MNIST/raw/*-ubyte, as torchvision.datasets.MNIST(folder) reads images; volumes have one dimension more."""

    def refusal(self, shape: Shape, classes: Classes) -> str | None:
        if shape[0] != 1:
            return f"IDX files hold one channel, these samples have {shape[0]}"
        return f"IDX files hold {_LABELS} classes, these are {len(classes)}" if len(classes) > _LABELS else None

    @contextmanager
    def writer(
        self, folder: Path, split: SplitName, targets: Targets, shape: Shape, classes: Classes
    ) -> Iterator[Writer]:
        names = _idx_names(split, shape)
        with writing(folder / names[0]) as images, writing(folder / names[1]) as labels:
            writer = Writer(targets, shape, classes, lambda _, chunk: images.write(_bytes(chunk)))
            images.write(idx_header(torch.uint8, (len(targets), *shape[1:])))
            labels.write(idx_header(torch.uint8, (len(targets),)) + _bytes(targets.to(torch.uint8)))
            yield writer
            writer.finish()
        writer.sha256 = {names[0]: images.sha256, names[1]: labels.sha256}

    def read(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Split:
        targets = self.targets(folder, split, count, shape, classes)
        return Split(self.mapped(folder, split, count, shape).clone(), targets)

    def targets(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Targets:
        path = folder / _idx_names(split, shape)[1]
        labels = read_idx(path)
        if list(labels.shape) != [count]:
            raise DataError(f"{path}: expected {count} labels, found the shape {list(labels.shape)}", _AGAIN)
        return _checked(path, labels.long(), classes)

    def mapped(self, folder: Path, split: SplitName, count: int, shape: Shape) -> Images:
        header = idx_header(torch.uint8, (count, *shape[1:]))
        return _map(folder / _idx_names(split, shape)[0], header, count * math.prod(shape)).view(count, *shape)


class _SafeTensors(Format):
    """<split>.safetensors with "images", uint8 [N, *shape], and "targets", int64 [N]."""

    def refusal(self, shape: Shape, classes: Classes) -> str | None:
        return None

    @contextmanager
    def writer(
        self, folder: Path, split: SplitName, targets: Targets, shape: Shape, classes: Classes
    ) -> Iterator[Writer]:
        name = f"{split}.safetensors"
        with writing(folder / name) as file:
            writer = Writer(targets, shape, classes, lambda _, chunk: file.write(_bytes(chunk)))
            file.write(_safetensors_header(len(targets), shape))
            file.write(targets.cpu().numpy().astype("<i8").tobytes())
            yield writer
            writer.finish()
        writer.sha256 = {name: file.sha256}

    def read(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Split:
        targets = self.targets(folder, split, count, shape, classes)
        return Split(self.mapped(folder, split, count, shape).clone(), targets)

    def targets(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Targets:
        values = self._values(folder, split, count, shape)[: 8 * count].numpy().view("<i8")
        return _checked(folder / f"{split}.safetensors", torch.from_numpy(values.astype(np.int64)), classes)

    def mapped(self, folder: Path, split: SplitName, count: int, shape: Shape) -> Images:
        return self._values(folder, split, count, shape)[8 * count :].view(count, *shape)

    def _values(self, folder: Path, split: SplitName, count: int, shape: Shape) -> UInt8[Tensor, "bytes"]:
        size = count * (8 + math.prod(shape))
        return _map(folder / f"{split}.safetensors", _safetensors_header(count, shape), size)


class _Png(Format):
    """<split>/<class>/<number in the split>.png, as torchvision.datasets.ImageFolder reads a split.

    A class without images in a split has an empty folder there: ImageFolder numbers the folders that it finds, and
    without this one all classes behind it would silently get other numbers. Given allow_empty=True it reads them
    right, else it stops.
    """

    def refusal(self, shape: Shape, classes: Classes) -> str | None:
        if len(shape) != 3:
            return "PNG files hold images, these samples are volumes"
        return None if shape[0] in (1, 3) else f"PNG files hold one or three channels, these samples have {shape[0]}"

    @contextmanager
    def writer(
        self, folder: Path, split: SplitName, targets: Targets, shape: Shape, classes: Classes
    ) -> Iterator[Writer]:
        folders, places = class_folders(classes), targets.tolist()

        def put(start: int, chunk: Tensor) -> None:
            for number, image in enumerate(chunk, start):
                name = f"{split}/{folders[places[number]]}/{_png_name(number, len(places))}"
                content = BytesIO()
                Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(content, "PNG")
                with writing(folder / name, durable=False) as file:  # an fsync for each file takes longer than all else
                    file.write(content.getvalue())
                writer.sha256[name] = file.sha256

        writer = Writer(targets, shape, classes, put)
        for each in folders:
            make_folder(folder / split / each)
        yield writer
        writer.finish()

    def read(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Split:
        found = self._found(folder, split, count, classes)
        images, size, grey = torch.empty(count, *shape, dtype=torch.uint8), (shape[1], shape[2]), shape[0] == 1
        for image, (path, _) in zip(images, found, strict=True):
            if inspect_image(path) != (size, grey):
                raise DataError(f"{path}: expected {'grey' if grey else 'colour'} of {size[0]}×{size[1]}", _AGAIN)
            image.copy_(read_image(path, size, grey))
        return Split(images, torch.tensor([target for _, target in found]))

    def targets(self, folder: Path, split: SplitName, count: int, shape: Shape, classes: Classes) -> Targets:
        return torch.tensor([target for _, target in self._found(folder, split, count, classes)])

    def mapped(self, folder: Path, split: SplitName, count: int, shape: Shape) -> Images:
        raise ValueError("PNG files are compressed, so they cannot be mapped into memory")

    def _found(self, folder: Path, split: SplitName, count: int, classes: Classes) -> list[tuple[Path, int]]:
        """Return the path of every image and its target, in the order they were written."""
        folders = [folder / split / name for name in class_folders(classes)]
        found = [(path, target) for target, each in enumerate(folders) for path in each.glob("[0-9]*.png")]
        found.sort(key=lambda one: one[0].name)
        if [path.name for path, _ in found] != [_png_name(number, count) for number in range(count)]:
            raise DataError(
                f"{folder / split}: expected {count} PNG files, numbered without a gap in folders of"
                f" {len(classes)} classes, found {len(found)}",
                _AGAIN,
            )
        return found


FORMATS: dict[str, Format] = {"idx": _Idx(), "png": _Png(), "safetensors": _SafeTensors()}


def _idx_names(split: SplitName, shape: Shape) -> tuple[str, str]:
    stem = f"MNIST/raw/{'train' if split == 'train' else 't10k'}"
    return f"{stem}-images-idx{len(shape)}-ubyte", f"{stem}-labels-idx1-ubyte"


def _png_name(number: int, count: int) -> str:
    return f"{number:0{max(5, len(str(count - 1)))}}.png"


def _safetensors_header(count: int, shape: Shape) -> bytes:
    return safetensors_header({"targets": (torch.int64, [count]), "images": (torch.uint8, [count, *shape])})


def _bytes(values: UInt8[Tensor, "..."]) -> memoryview:
    return values.cpu().contiguous().flatten().numpy().data


def _map(path: Path, header: bytes, size: int) -> UInt8[Tensor, "bytes"]:
    """Return the `size` bytes that follow a header, mapped into memory, copied on write."""
    try:
        with path.open("rb") as file:
            begin, found = file.read(len(header)), os.fstat(file.fileno()).st_size
            if begin == header and found == len(header) + size:
                content = mmap.mmap(file.fileno(), found, flags=_MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
                return torch.frombuffer(content, dtype=torch.uint8)[len(header) :]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", _AGAIN) from error
    other = f"{found} bytes" if begin == header else "another header"
    raise DataError(f"{path}: expected {len(header) + size} bytes that begin with {header!r}, found {other}", _AGAIN)


def _checked(path: Path, targets: Targets, classes: Classes) -> Targets:
    wrong = ((targets < 0) | (targets >= len(classes))).nonzero().flatten().tolist()
    if wrong:
        found = f"{int(targets[wrong[0]])} at index {wrong[0]}"
        raise DataError(f"{path}: expected targets in 0..{len(classes) - 1}, found {found}", _AGAIN)
    return targets
