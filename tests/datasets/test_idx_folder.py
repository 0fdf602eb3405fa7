from pathlib import Path

import pytest
import torch

from stn_cli.datasets.every_sixth import hold_out_every_sixth
from stn_cli.datasets.idx import read_labelled, write_idx
from stn_cli.datasets.idx_folder import is_idx_folder, load_idx_folder, load_idx_pair
from stn_cli.datasets.mnist import load_mnist
from stn_cli.datasets.source import Source
from stn_cli.errors import DataError

IMAGES = (torch.arange(40 * 3 * 5) % 251).to(torch.uint8).view(40, 3, 5)
LABELS = (torch.arange(40) % 4).to(torch.uint8)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "test-images-idx3-ubyte", "test-labels-idx1-ubyte")
PARTS = (IMAGES[:30], LABELS[:30], IMAGES[30:], LABELS[30:])


def write(folder: Path, names: tuple[str, ...] = NAMES, parts: tuple[torch.Tensor, ...] = PARTS) -> Path:
    for name, part in zip(names, parts, strict=True):
        write_idx(folder / name, part)
    return folder


def assert_ours(source: Source) -> None:
    assert torch.equal(source.train.images[:, 0], IMAGES[:30])
    assert torch.equal(source.test.images[:, 0], IMAGES[30:])
    assert torch.equal(torch.cat([source.train.targets, source.test.targets]), LABELS.long())
    assert source.classes == ("0", "1", "2", "3")


SPELLINGS = {
    "torchvision": NAMES,
    "t10k": tuple(name.replace("test", "t10k") for name in NAMES),
    "packed": tuple(f"{name}.gz" for name in NAMES),
    "prefix": tuple(f"my-train.ing-{name}" for name in NAMES),
    "dots": tuple(name.replace("-idx", ".idx") for name in NAMES),
    "mixed": (NAMES[0], f"{NAMES[1]}.gz", NAMES[2], NAMES[3].replace("test", "t10k")),
}


@pytest.mark.parametrize("names", SPELLINGS.values(), ids=SPELLINGS)
def test_four_files_are_found_by_their_names(tmp_path, names):
    write(tmp_path / "mine", names)
    (tmp_path / "mine" / "README").touch()
    assert is_idx_folder(tmp_path / "mine")
    source = load_idx_folder(tmp_path / "mine")
    assert_ours(source)
    assert source.name == "mine"


def test_plain_file_comes_before_its_gz(tmp_path):
    write(tmp_path)
    for name in NAMES:
        (tmp_path / f"{name}.gz").touch()
    assert_ours(load_idx_folder(tmp_path))


def test_labels_may_be_integers(tmp_path):
    write(tmp_path, NAMES, (PARTS[0], PARTS[1].int(), PARTS[2], PARTS[3].int()))
    assert_ours(load_idx_folder(tmp_path))


def test_real_mnist_is_that_of_its_loader(mnist_dir):
    ours, theirs = load_idx_folder(mnist_dir / "MNIST" / "raw"), load_mnist(mnist_dir, offline=True)
    assert ours.classes == theirs.classes
    for a, b in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_named(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"expected four IDX files, found none for {name[: name.index('-idx')]}"):
        load_idx_folder(tmp_path)


def test_two_datasets_in_one_folder_are_named(tmp_path):
    write(write(tmp_path), tuple(f"other-{name}" for name in NAMES))
    with pytest.raises(DataError, match="expected the IDX files of one dataset, found those of '', 'other-'"):
        load_idx_folder(tmp_path)


def test_folder_without_idx_files_is_none(tmp_path):
    (tmp_path / "train-images.png").touch()
    assert not is_idx_folder(tmp_path)
    with pytest.raises(DataError, match="found none for train-images, train-labels, test-images, test-labels"):
        load_idx_folder(tmp_path)
    for folder in (tmp_path / "absent", tmp_path / "train-images.png"):
        with pytest.raises(DataError, match=f"cannot read {folder}"):
            load_idx_folder(folder)


def test_pair_with_a_test_pair(tmp_path):
    write(tmp_path)
    source = load_idx_pair(*(tmp_path / name for name in NAMES))
    assert_ours(source)
    assert source.name == "train-images-idx3-ubyte"


def test_pair_alone_is_split(tmp_path):
    write(tmp_path)
    source = load_idx_pair(tmp_path / NAMES[0], tmp_path / NAMES[1])
    train, test = hold_out_every_sixth(read_labelled(tmp_path / NAMES[0], tmp_path / NAMES[1], 4), "here")
    assert torch.equal(source.train.images, train.images)
    assert torch.equal(source.test.images, test.images)
    assert len(source.test) == 4


def test_half_a_test_pair_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="both test files or none"):
        load_idx_pair(tmp_path / "a", tmp_path / "b", tmp_path / "c")


def test_classes_are_as_many_as_the_largest_label_in_either_split_says(tmp_path):
    write(tmp_path, NAMES, (*PARTS[:3], PARTS[3] + 200))
    assert len(load_idx_folder(tmp_path).classes) == 204


@pytest.mark.parametrize(("odd", "count"), [([-1, 7, -5], 2), ([10_000, 2**31 - 1, 9_999], 2)])
def test_labels_that_count_no_classes_are_counted_and_the_first_is_named(tmp_path, odd, count):
    labels = LABELS[:30].int()
    labels[4:7] = torch.tensor(odd, dtype=torch.int32)
    write(tmp_path, NAMES, (PARTS[0], labels, *PARTS[2:]))
    with pytest.raises(DataError, match=f"found {count} of 30 outside, the first is {odd[0]} at index 4"):
        load_idx_folder(tmp_path)


def test_labels_that_are_no_integers_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / NAMES[1]).write_bytes(bytes.fromhex("00000d010000001e") + bytes(120))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: expected the IDX magic .* found 00 00 0d 01"):
        load_idx_folder(tmp_path)


def test_splits_must_have_one_size(tmp_path):
    write(tmp_path, NAMES, (*PARTS[:2], IMAGES[30:].transpose(1, 2), PARTS[3]))
    with pytest.raises(DataError, match=r"test-images-idx3-ubyte: expected images of 3×5 .*, found 5×3"):
        load_idx_folder(tmp_path)


@pytest.mark.parametrize("empty", [0, 1])
def test_empty_files_are_named(tmp_path, empty):
    write(tmp_path, NAMES, tuple(part[:0] if at == empty else part for at, part in enumerate(PARTS)))
    with pytest.raises(DataError, match=r"train-(images|labels)-idx[13]-ubyte: expected"):
        load_idx_folder(tmp_path)
