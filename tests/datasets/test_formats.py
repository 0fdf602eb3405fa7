import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as save_safetensors
from torch import Tensor
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from stn_cli.datasets.format import SplitName
from stn_cli.datasets.formats import FORMATS
from stn_cli.datasets.idx import idx_header, idx_sha256, write_idx
from stn_cli.errors import DataError
from stn_cli.storage import sha256_of

Size = tuple[int, ...]
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover")
GREY, COLOUR, TWO, GREY_VOLUME, COLOUR_VOLUME = (1, 5, 4), (3, 5, 4), (2, 5, 4), (1, 3, 5, 4), (3, 2, 5, 4)
KEPT = [("idx", GREY), ("png", GREY), ("png", COLOUR), *(("safetensors", shape) for shape in (GREY, COLOUR, TWO))]
VOLUMES = [("idx", GREY_VOLUME), ("safetensors", GREY_VOLUME), ("safetensors", COLOUR_VOLUME)]
every_kept = pytest.mark.parametrize(("kind", "shape"), KEPT)
every_volume = pytest.mark.parametrize(("kind", "shape"), VOLUMES)
everything = pytest.mark.parametrize(("kind", "shape"), KEPT + VOLUMES)
every_split = pytest.mark.parametrize("split", ["train", "test"])


def samples(shape: Size, count: int = 11, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, *shape), generator=generator, dtype=torch.uint8)
    return images, torch.randperm(count, generator=generator) % classes


def write(
    folder: Path,
    kind: str,
    images: Tensor,
    targets: Tensor,
    split: SplitName = "train",
    classes: tuple[str, ...] = CLOTHES,
    chunk: int = 4,
) -> dict[str, str]:
    with FORMATS[kind].writer(folder, split, targets, images.shape[1:], classes) as writer:
        for part in images.split(chunk):
            writer.add(part)
    return writer.sha256


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


@every_split
@every_kept
def test_what_is_written_is_read_back(tmp_path: Path, kind: str, shape: Size, split: SplitName) -> None:
    images, targets = samples(shape)
    other: SplitName = "test" if split == "train" else "train"
    found = write(tmp_path, kind, images, targets, split) | write(tmp_path, kind, 255 - images, targets.flip(0), other)
    assert found == hashes(tmp_path)
    read = FORMATS[kind].read(tmp_path, split, len(images), shape, CLOTHES)
    assert torch.equal(read.images, images)
    assert torch.equal(read.targets, targets)
    assert torch.equal(FORMATS[kind].targets(tmp_path, split, len(images), shape, CLOTHES), targets)
    read.images.zero_()
    assert found == hashes(tmp_path)


@every_split
@pytest.mark.parametrize(("kind", "shape"), [*((k, s) for k, s in KEPT if k != "png"), *VOLUMES])
def test_what_is_mapped_is_what_was_written(tmp_path: Path, kind: str, shape: Size, split: SplitName) -> None:
    images, targets = samples(shape)
    found = write(tmp_path, kind, images, targets, split)
    assert found == hashes(tmp_path)
    mapped = FORMATS[kind].mapped(tmp_path, split, len(images), shape)
    assert torch.equal(mapped, images)
    assert torch.equal(FORMATS[kind].targets(tmp_path, split, len(images), shape, CLOTHES), targets)
    mapped.add_(1)
    assert torch.equal(mapped, images + 1)
    assert found == hashes(tmp_path), "changes stay in memory"
    for name in found:
        (tmp_path / name).unlink()
    assert torch.equal(mapped, images + 1)


@everything
def test_bytes_do_not_depend_on_the_chunks_or_the_strides(tmp_path: Path, kind: str, shape: Size) -> None:
    images, targets = samples(shape)
    expected = write(tmp_path / "whole", kind, images, targets, chunk=len(images))
    for chunk in (1, 3, 10):
        assert write(tmp_path / str(chunk), kind, images, targets, chunk=chunk) == expected
    turned = images.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert write(tmp_path / "turned", kind, turned, targets) == expected


def test_idx_is_what_write_idx_writes_and_torchvision_reads(tmp_path: Path) -> None:
    images, targets = samples(GREY, 40, 10)
    found = write(tmp_path, "idx", images, targets, "train", DIGITS)
    found |= write(tmp_path, "idx", images.flip(0), targets.flip(0), "test", DIGITS)
    for start, train in (("train", True), ("t10k", False)):
        theirs = MNIST(str(tmp_path), train=train, download=False)
        assert torch.equal(theirs.data, (images if train else images.flip(0))[:, 0])
        assert torch.equal(theirs.targets, targets if train else targets.flip(0))
        write_idx(tmp_path / "plain", theirs.data)
        assert found[f"MNIST/raw/{start}-images-idx3-ubyte"] == sha256_of(tmp_path / "plain")
        assert found[f"MNIST/raw/{start}-labels-idx1-ubyte"] == idx_sha256(theirs.targets.byte())


def test_volumes_are_idx_of_four_dimensions(tmp_path: Path) -> None:
    images, targets = samples(GREY_VOLUME)
    write_idx(tmp_path / "plain", images[:, 0])
    assert write(tmp_path, "idx", images, targets) == {
        "MNIST/raw/train-images-idx4-ubyte": sha256_of(tmp_path / "plain"),
        "MNIST/raw/train-labels-idx1-ubyte": idx_sha256(targets.byte()),
    }


@pytest.mark.parametrize("shape", [GREY, COLOUR, TWO, COLOUR_VOLUME])
def test_safetensors_reads_what_it_would_write_itself(tmp_path: Path, shape: Size) -> None:
    images, targets = samples(shape)
    write(tmp_path, "safetensors", images, targets)
    theirs = load_file(tmp_path / "train.safetensors")
    assert theirs.keys() == {"images", "targets"}
    assert torch.equal(theirs["images"], images)
    assert torch.equal(theirs["targets"], targets)
    parts = []
    for content in ((tmp_path / "train.safetensors").read_bytes(), save_safetensors(theirs)):
        length = int.from_bytes(content[:8], "little")
        assert length % 8 == 0
        parts.append((json.loads(content[8 : 8 + length]), content[8 + length :]))
    assert parts[0] == parts[1]


@pytest.mark.parametrize("classes", [CLOTHES, ("a", "b", "c"), tuple(f"{number}" for number in range(11))])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_image_folder_reads_the_png_files(tmp_path: Path, shape: Size, classes: tuple[str, ...]) -> None:
    images, targets = samples(shape, 23, len(classes))
    write(tmp_path, "png", images, targets, "test", classes)
    theirs = ImageFolder(str(tmp_path / "test"))
    assert len(theirs.classes) == len(classes)
    order = torch.tensor([int(Path(path).stem) for path, _ in theirs.samples])
    assert torch.equal(order, targets.argsort(stable=True)), "class by class, in the order of the split"
    assert theirs.targets == targets[order].tolist()
    for (picture, _), image in zip(theirs, images[order], strict=True):
        assert torch.equal(pil_to_tensor(picture), image.expand(3, -1, -1))
    for path, _ in theirs.samples:
        with Image.open(path) as opened:
            assert opened.mode == ("L" if shape[0] == 1 else "RGB")


def test_a_class_without_images_shifts_no_other(tmp_path: Path) -> None:
    images, targets = samples(GREY)
    kept = targets != 1
    write(tmp_path, "png", images[kept], targets[kept])
    theirs = ImageFolder(str(tmp_path / "train"), allow_empty=True)
    assert theirs.classes == ["0-T-shirt_top", "1-Trouser", "2-Pullover"]
    assert sorted(set(theirs.targets)) == [0, 2]
    with pytest.raises(FileNotFoundError, match="1-Trouser"):
        ImageFolder(str(tmp_path / "train"))
    expected = FORMATS["png"].read(tmp_path, "train", int(kept.sum()), GREY, CLOTHES)
    (tmp_path / "train" / "1-Trouser").rmdir()  # as an archive would lose it
    again = FORMATS["png"].read(tmp_path, "train", int(kept.sum()), GREY, CLOTHES)
    assert torch.equal(again.targets, expected.targets)
    assert torch.equal(again.targets, targets[kept])


@everything
def test_a_block_that_fails_leaves_old_files_and_nothing_new(tmp_path: Path, kind: str, shape: Size) -> None:
    """PNG files alone: the images that were added are there, each of them whole."""
    images, targets = samples(shape)

    def fail(folder: Path) -> None:
        with FORMATS[kind].writer(folder, "train", targets, shape, CLOTHES) as writer:
            writer.add(images[:5])
            raise KeyboardInterrupt

    expected = write(tmp_path / "sound", kind, images, targets)
    write(tmp_path / "old", kind, images, targets)
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "old")
    assert hashes(tmp_path / "old") == expected
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "new")
    left = hashes(tmp_path / "new")
    assert left.items() <= expected.items()
    assert len(left) == (5 if kind == "png" else 0)
    assert write(tmp_path / "new", kind, images, targets) == expected == hashes(tmp_path / "new")


@everything
@pytest.mark.parametrize("count", [0, 10, 12])
def test_images_and_targets_that_do_not_fit_are_refused(tmp_path: Path, kind: str, shape: Size, count: int) -> None:
    images, targets = samples(shape)
    given = images.repeat(2, *[1] * len(shape))[:count]
    with pytest.raises(ValueError, match=r"expected .*11.*found"):
        write(tmp_path, kind, given, targets)
    assert kind == "png" or not hashes(tmp_path)
    with pytest.raises(ValueError, match="expected targets"):
        write(tmp_path / "wrong", kind, images, targets + 1)
    assert not (tmp_path / "wrong").exists() or not hashes(tmp_path / "wrong")


@everything
def test_what_does_not_fit_is_not_read(tmp_path: Path, kind: str, shape: Size) -> None:
    images, targets = samples(shape)
    kept = FORMATS[kind]
    found = write(tmp_path, kind, images, targets)

    def read(split: SplitName, count: int, shape: Size, classes: tuple[str, ...]) -> None:
        if len(shape) == 3:
            kept.read(tmp_path, split, count, shape, classes)
        else:
            kept.targets(tmp_path, split, count, shape, classes)
            kept.mapped(tmp_path, split, count, shape)

    *others, height, width = shape
    for given in [
        ("test", 11, shape, CLOTHES),
        ("train", 10, shape, CLOTHES),
        ("train", 12, shape, CLOTHES),
        ("train", 11, (*others, height, width + 1), CLOTHES),
        ("train", 11, (*others, width, height), CLOTHES),
        ("train", 11, (3 if shape[0] == 1 else 1, *shape[1:]), CLOTHES),
        ("train", 11, shape, CLOTHES[:2]),
    ]:
        with pytest.raises(DataError):
            read(*given)
    for name in found:
        sound = (tmp_path / name).read_bytes()
        for damaged in (b"", sound[:1], sound[: len(sound) // 2], b"x" + sound[1:]):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(DataError):
                read("train", 11, shape, CLOTHES)
        (tmp_path / name).unlink()
        with pytest.raises(DataError):
            read("train", 11, shape, CLOTHES)
        (tmp_path / name).write_bytes(sound)
    read("train", 11, shape, CLOTHES)


def test_targets_out_of_range_are_named(tmp_path: Path) -> None:
    images, targets = samples(GREY, 300, 256)
    many = tuple(str(number) for number in range(256))
    for kind in ("idx", "safetensors"):
        write(tmp_path, kind, images, targets, classes=many)
        assert torch.equal(FORMATS[kind].read(tmp_path, "train", 300, GREY, many).targets, targets)
        first = int((targets > 254).nonzero()[0])
        with pytest.raises(DataError, match=rf"expected targets in 0\.\.254, found 255 at index {first}"):
            FORMATS[kind].read(tmp_path, "train", 300, GREY, many[:255])


def test_numbers_of_png_files_sort_beyond_five_digits(tmp_path: Path) -> None:
    """Nothing but names is looked at: of 100,001 images one is written."""
    images, targets = samples(GREY, 1)
    with (
        pytest.raises(ValueError, match="expected 100001 images, found 1"),
        FORMATS["png"].writer(tmp_path, "train", targets.expand(100_001), GREY, CLOTHES) as writer,
    ):
        writer.add(images)
    assert list(hashes(tmp_path)) == ["train/0-T-shirt_top/000000.png"]


def test_what_a_format_cannot_keep_is_said() -> None:
    many = tuple(str(number) for number in range(257))
    allowed = {("idx", GREY), ("idx", GREY_VOLUME), ("png", GREY), ("png", COLOUR)}
    for shape in (GREY, COLOUR, TWO, GREY_VOLUME, COLOUR_VOLUME):
        assert FORMATS["safetensors"].refusal(shape, many) is None
        for kind in ("idx", "png"):
            assert (FORMATS[kind].refusal(shape, many[:256]) is None) == ((kind, shape) in allowed)
    assert "these are 257" in (FORMATS["idx"].refusal(GREY, many) or "")
    assert "these samples have 3" in (FORMATS["idx"].refusal(COLOUR, DIGITS) or "")
    assert "these samples have 2" in (FORMATS["png"].refusal(TWO, DIGITS) or "")
    assert "volumes" in (FORMATS["png"].refusal(GREY_VOLUME, DIGITS) or "")
    with pytest.raises(ValueError, match="cannot be mapped"):
        FORMATS["png"].mapped(Path(), "train", 1, GREY)


@pytest.mark.skipif(sys.platform != "linux", reason="files with holes, and what the kernel promises, differ elsewhere")
def test_a_file_larger_than_the_memory_is_mapped(tmp_path: Path) -> None:
    """Nearly all of it is a hole, which takes no room on the disk."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this kernel was told to promise no more memory than there is")
    count = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    header = idx_header(torch.uint8, (count, 1024, 1024))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + (count << 20) - 1)
        file.seek(0, os.SEEK_END)
        file.write(b"x")
    images = FORMATS["idx"].mapped(tmp_path, "train", count, (1, 1024, 1024))
    assert images.shape == (count, 1, 1024, 1024)
    assert images[-1, 0, -1, -2:].tolist() == [0, ord("x")]
