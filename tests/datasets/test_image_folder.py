import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from stn_cli.datasets import image_folder
from stn_cli.datasets.every_sixth import hold_out_every_sixth
from stn_cli.datasets.image_folder import load_image_folder
from stn_cli.datasets.source import Split
from stn_cli.errors import DataError

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)


def save(path: Path, image: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def fill(folder: Path, image: np.ndarray, count: int = 6, classes: tuple[str, ...] = ("one", "two")) -> Path:
    for shift, name in enumerate(classes):
        for number in range(count):
            save(folder / name / f"{number:02}.png", image + np.uint8(10 * shift + number))
    return folder


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).view(*image.shape[:2], -1).permute(2, 0, 1)


def by_class(split: Split) -> Split:
    """The images class by class, each class in its order."""
    return split.at(torch.argsort(split.targets, stable=True))


def test_two_levels_hold_what_torchvision_reads(tmp_path):
    fill(tmp_path / "train", COLOUR, 12, ("b", "a", "10", "9"))
    fill(tmp_path / "test", COLOUR, 3, ("b", "a", "10", "9"))
    source = load_image_folder(tmp_path)
    assert source.name == tmp_path.name
    for split, name in ((source.train, "train"), (source.test, "test")):
        theirs, ours = ImageFolder(str(tmp_path / name)), by_class(split)
        assert list(source.classes) == theirs.classes
        assert ours.targets.tolist() == theirs.targets
        assert torch.equal(ours.images, torch.stack([pil_to_tensor(image) for image, _ in theirs]))


def test_classes_take_turns_so_the_first_images_are_of_all(tmp_path):
    for split in ("train", "test"):
        for shift, (name, count) in enumerate({"a": 1, "b": 4, "c": 2}.items()):
            fill(tmp_path / split, GREY + np.uint8(10 * shift), count, (name,))
    source = load_image_folder(tmp_path)
    for found in (source.train, source.test):
        assert found.targets.tolist() == [0, 1, 2, 1, 2, 1, 1]
        assert found.images[:, 0, 0, 0].tolist() == [0, 10, 20, 11, 21, 12, 13]


def test_one_level_is_split(tmp_path):
    fill(tmp_path, COLOUR, 13)
    theirs = ImageFolder(str(tmp_path))
    whole = Split(torch.stack([pil_to_tensor(image) for image, _ in theirs]), torch.tensor(theirs.targets))
    source, (train, test) = load_image_folder(tmp_path), hold_out_every_sixth(whole, "here")
    for ours, theirs in ((source.train, train), (source.test, test)):
        assert torch.equal(by_class(ours).images, theirs.images)
    assert source.test.targets.tolist() == [0, 1, 0, 1]


def test_order_of_creation_does_not_matter(tmp_path):
    numbers = list(range(12))
    random.Random(0).shuffle(numbers)
    for number in numbers:
        for name in ("one", "two"):
            save(tmp_path / "shuffled" / name / f"{number:02}.png", GREY + np.uint8(number + 10 * (name == "two")))
    a, b = load_image_folder(tmp_path / "shuffled"), load_image_folder(fill(tmp_path / "sorted", GREY, 12))
    assert torch.equal(a.train.images, b.train.images)
    assert torch.equal(a.test.images, b.test.images)


def test_other_files_and_hidden_ones_are_left_alone(tmp_path):
    fill(tmp_path, GREY)
    for name in ("notes.txt", "one/Thumbs.db", "one/._00.png", ".hidden/x.png", "one/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "one" / "folder.png").mkdir()
    source = load_image_folder(tmp_path)
    assert source.classes == ("one", "two")
    assert len(source.train) + len(source.test) == 12


@pytest.mark.parametrize("ending", ["png", "PNG", "jpg", "JPG", "jpeg", "Jpeg"])
def test_endings_may_be_in_any_case(tmp_path, ending):
    fill(tmp_path, GREY)
    save(tmp_path / "one" / f"x.{ending}", GREY, format="PNG" if ending.lower() == "png" else "JPEG")
    source = load_image_folder(tmp_path)
    assert len(source.train) + len(source.test) == 13


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    fill(tmp_path / "train", GREY)
    fill(tmp_path / "test", GREY)
    assert load_image_folder(tmp_path).train.images.shape == (12, 1, 6, 4)
    save(tmp_path / "test" / "two" / "00.png", COLOUR)
    source = load_image_folder(tmp_path)
    assert source.train.images.shape == (12, 3, 6, 4)
    assert torch.equal(source.train.images[0], as_tensor(np.stack([GREY] * 3, axis=2)))


def test_most_images_keep_their_pixels_and_the_others_are_fitted_to_their_size(tmp_path):
    fill(tmp_path, GREY)
    odd = np.full((10, 20), 200, dtype=np.uint8)
    save(tmp_path / "one" / "00.png", odd)
    source = load_image_folder(tmp_path)
    assert torch.equal(source.train.images[2], as_tensor(GREY + np.uint8(1)))
    # 20×10 scaled to fit 4×6 is 4×2, with two rows of black above and below.
    expected = torch.zeros(1, 6, 4, dtype=torch.uint8)
    expected[:, 2:4] = 200
    assert torch.equal(source.train.images[0], expected)


def test_smallest_of_the_most_frequent_sizes_is_taken(tmp_path):
    for number in range(6):
        save(tmp_path / "one" / f"{number}.png", np.zeros((8, 8), dtype=np.uint8))
        save(tmp_path / "two" / f"{number}.png", np.zeros((5, 9), dtype=np.uint8))
    save(tmp_path / "two" / "x.png", np.zeros((2, 2), dtype=np.uint8))
    assert load_image_folder(tmp_path).train.size == (5, 9)


@pytest.mark.parametrize("split", ["train", "test"])
def test_bad_file_is_named_before_anything_is_decoded(tmp_path, monkeypatch, split):
    fill(tmp_path / "train", GREY)
    fill(tmp_path / "test", GREY)
    bad = tmp_path / split / "two" / "05.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    monkeypatch.setattr(image_folder, "read_image", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(DataError, match=f"cannot read {bad}"):
        load_image_folder(tmp_path)


def test_fewer_than_two_classes_are_refused(tmp_path):
    (tmp_path / "none").mkdir()
    fill(tmp_path / "one", GREY, classes=("only",))
    for folder, count in ((tmp_path / "none", 0), (tmp_path / "one", 1)):
        with pytest.raises(DataError, match=f"{folder}: expected two or more folders, .* found {count}"):
            load_image_folder(folder)


def test_class_without_images_is_named(tmp_path):
    fill(tmp_path, GREY)
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "x.gif").touch()
    with pytest.raises(DataError, match=r"three: expected \.png, \.jpg or \.jpeg files, found none"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("place", ["train", "test"])
def test_class_in_one_split_only_is_named(tmp_path, place):
    fill(tmp_path / "train", GREY)
    fill(tmp_path / "test", GREY)
    fill(tmp_path / place, GREY, classes=("three",))
    with pytest.raises(DataError, match="expected the same classes in train and test, found 'three' in only one"):
        load_image_folder(tmp_path)


def test_folder_that_is_none_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(DataError, match=f"cannot read {folder}: "):
            load_image_folder(folder)


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    fill(tmp_path, GREY)
    monkeypatch.setattr(image_folder, "_MOST_FILES", 5)
    with pytest.raises(DataError, match="one: expected at most 5 files, found more"):
        load_image_folder(tmp_path)
    monkeypatch.setattr(image_folder, "_MOST_FILES", 6)
    load_image_folder(tmp_path)


def test_more_pixels_than_fit_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    fill(tmp_path, GREY)
    monkeypatch.setattr(image_folder, "_MOST_GIGABYTES", 12 * 6 * 4 / 2**30)
    load_image_folder(tmp_path)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was asked for"))
    save(tmp_path / "one" / "x.png", GREY)
    with pytest.raises(DataError, match=r"GiB of pixels, found 0\.0: 13 images of 6×4"):
        load_image_folder(tmp_path)
