import dataclasses
from itertools import chain

import pytest
import torch
from torchvision.datasets import EMNIST, KMNIST, QMNIST, FashionMNIST

from stn_cli.datasets import relatives
from stn_cli.datasets.idx import write_idx
from stn_cli.datasets.relatives import LOADERS, RELATIVES, load_emnist, load_fashion_mnist, load_kmnist, load_qmnist
from stn_cli.errors import DataError
from stn_cli.names import DATASETS

EMNIST_SPLITS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")


@pytest.mark.parametrize("row", RELATIVES.values(), ids=RELATIVES)
def test_table_is_sound(row):
    assert RELATIVES[row.name] is row
    assert row.mirrors
    assert all(url.startswith("https://") and url.endswith("/") for url in row.mirrors)
    assert len(set(row.files)) == 4
    assert row.md5.keys() == ({row.archive} if row.archive else {f"{name}.gz" for name in row.files})
    assert all(len(md5) == 32 for md5 in row.md5.values())
    assert len(set(row.classes)) == len(row.classes)


def test_loaders_are_mnist_and_the_table():
    assert LOADERS.keys() == {"mnist", *RELATIVES}


def test_md5_sums_and_classes_are_those_of_torchvision():
    for name, theirs in (("fashion-mnist", FashionMNIST), ("kmnist", KMNIST)):
        assert list(RELATIVES[name].md5.items()) == theirs.resources
        assert list(RELATIVES[name].classes) == theirs.classes
    for split, classes in EMNIST.classes_split_dict.items():
        row = RELATIVES[f"emnist-{split}"]
        assert row.md5[row.archive] == EMNIST.md5
        assert f"{row.mirrors[0]}{row.archive}" == EMNIST.url
        theirs = [c.upper() for c in classes[1:]] if split == "letters" else classes
        assert list(row.classes) == theirs
    resources = chain(QMNIST.resources["train"], QMNIST.resources["test"])
    assert [(RELATIVES["qmnist"].mirrors[0] + name, md5) for name, md5 in RELATIVES["qmnist"].md5.items()] == list(
        resources
    )


def write_files(name: str, data_dir, counts: tuple[int, int], integers: bool = False) -> None:
    row = RELATIVES[name]
    for images, labels, count in ((*row.files[:2], counts[0]), (*row.files[2:], counts[1])):
        pixels = (torch.arange(count * 3 * 3) * 37 % 251).to(torch.uint8).view(count, 3, 3)
        numbers = (torch.arange(count) * 7 % len(row.classes) + row.first_label).to(torch.uint8)
        write_idx(data_dir / row.folder / "raw" / images, pixels)
        write_idx(
            data_dir / row.folder / "raw" / labels,
            torch.stack([numbers.int(), *[torch.arange(count, dtype=torch.int32)] * 7], dim=1) if integers else numbers,
        )


def assert_same(split, theirs, transposed: bool = False, first_label: int = 0) -> None:
    images = theirs.data.unsqueeze(1)
    assert torch.equal(split.images, images.mT if transposed else images)
    targets = theirs.targets if theirs.targets.ndim == 1 else theirs.targets[:, 0]
    assert torch.equal(split.targets, targets - first_label)


@pytest.mark.parametrize(
    ("name", "load", "theirs"),
    [("fashion-mnist", load_fashion_mnist, FashionMNIST), ("kmnist", load_kmnist, KMNIST)],
)
def test_torchvision_reads_the_same_folder(tmp_path, name, load, theirs):
    write_files(name, tmp_path, (20, 10))
    source = load(tmp_path, offline=True)
    assert_same(source.train, theirs(tmp_path, train=True))
    assert_same(source.test, theirs(tmp_path, train=False))


@pytest.mark.parametrize("split", EMNIST_SPLITS)
def test_torchvision_reads_the_same_folder_of_emnist(tmp_path, split):
    write_files(f"emnist-{split}", tmp_path, (130, 70))
    source = load_emnist(tmp_path, split, offline=True)
    first = 1 if split == "letters" else 0
    assert_same(source.train, EMNIST(tmp_path, split, train=True), transposed=True, first_label=first)
    assert_same(source.test, EMNIST(tmp_path, split, train=False), transposed=True, first_label=first)
    assert source.train.targets.unique().tolist() == list(range(len(source.classes)))


def test_letters_begin_at_one_in_their_files(tmp_path):
    write_files("emnist-letters", tmp_path, (30, 30))
    row = RELATIVES["emnist-letters"]
    write_idx(tmp_path / "EMNIST" / "raw" / row.files[1], torch.tensor([1, 26] * 13 + [0, 27] * 2, dtype=torch.uint8))
    with pytest.raises(
        DataError, match=r"expected labels in 1\.\.26, found 4 of 30 outside, the first is 0 at index 26"
    ):
        load_emnist(tmp_path, "letters", offline=True)


def test_torchvision_reads_the_same_folder_of_qmnist(tmp_path):
    write_files("qmnist", tmp_path, (20, 10_007), integers=True)
    source = load_qmnist(tmp_path, offline=True)
    assert (len(source.test), source.name) == (10_000, "qmnist")
    assert_same(source.train, QMNIST(tmp_path, "train"))
    assert_same(source.test, QMNIST(tmp_path, "test10k"))
    other = load_qmnist(tmp_path, "test50k", offline=True)
    assert (len(other.test), other.name) == (7, "qmnist-50k")
    assert_same(other.test, QMNIST(tmp_path, "test50k"))


@pytest.mark.parametrize("name", RELATIVES)
def test_missing_dataset_is_named_with_its_own_name(tmp_path, name):
    with pytest.raises(DataError, match=r"is not complete: .*, and downloads are off") as caught:
        LOADERS[name](tmp_path, offline=True)
    assert f"--dataset {name} " in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_relatives_are_not_mistaken_for_each_other(tmp_path, monkeypatch, mirror):
    """What the mirror gives must have the MD5 of the very dataset."""
    row = dataclasses.replace(RELATIVES["kmnist"], mirrors=(mirror.url,))
    monkeypatch.setitem(relatives.RELATIVES, "kmnist", row)
    write_idx(tmp_path / "mnist.gz", torch.zeros(3, 28, 28, dtype=torch.uint8))
    mirror.put("train-images-idx3-ubyte.gz", (tmp_path / "mnist.gz").read_bytes())
    with pytest.raises(DataError, match="expected md5 bdb82020997e1d708af4cf47b453dcf7, found"):
        load_kmnist(tmp_path)


def test_every_name_a_user_may_write_has_its_loader() -> None:
    assert ("digits", *LOADERS) == DATASETS
