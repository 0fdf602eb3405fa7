import json
import os
import random
import threading
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import MNIST

from stn_cli.config import DataConfig, EConfig, PConfig, RConfig, RTSConfig
from stn_cli.config_files import load_config
from stn_cli.datasets import distorted
from stn_cli.datasets.build import build_source
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import Recipe, parameters_file, read_distorted, read_manifest, to_bytes, write_distorted
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.build import build_distortion
from stn_cli.distortions.distortion import Distortion
from stn_cli.errors import DataError, ResourceError, UsageError
from stn_cli.storage import sha256_of

KINDS = {"R": RConfig(), "RTS": RTSConfig(), "P": PConfig(), "E": EConfig()}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distorted, "CHUNK", 16)


def source(train: int = 40, test: int = 25) -> Source:
    digits = load_digits()
    parts = [Split(s.images[:n], s.targets[:n]) for s, n in ((digits.train, train), (digits.test, test))]
    return replace(digits, train=parts[0], test=parts[1])


def recipe(kind: str = "R", seed: int = 0) -> Recipe:
    return Recipe("digits", KINDS[kind].model_dump(mode="json"), seed)


def distortion(kind: str = "R") -> Distortion:
    built = build_distortion(KINDS[kind])
    assert built is not None
    return built


def write(folder: Path, kind: str = "R", seed: int = 0) -> Path:
    list(write_distorted(source(), distortion(kind), recipe(kind, seed), folder))
    return folder


def begin(folder: Path, chunks: int) -> None:
    """Write some of the chunks, then stop."""
    with closing(write_distorted(source(), distortion(), recipe(), folder)) as stream:
        list(islice(stream, chunks))


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


@every_kind
def test_the_same_recipe_writes_the_same_bytes_and_another_seed_others(tmp_path: Path, kind: str) -> None:
    first = hashes(write(tmp_path / "a", kind))
    raw = [f"MNIST/raw/{p}-{kind}-ubyte" for p in ("t10k", "train") for kind in ("images-idx3", "labels-idx1")]
    parameters = ["parameters-test.safetensors", "parameters-train.safetensors"]
    assert sorted(first) == [*raw, "manifest.json", *parameters, "preview.png"]
    assert hashes(write(tmp_path / "b", kind)) == first
    assert hashes(write(tmp_path / "a", kind)) == first, "over itself"
    other = hashes(write(tmp_path / "c", kind, seed=1))
    assert {name for name in first if first[name] == other[name]} == {name for name in first if "labels" in name}


@every_kind
def test_torchvision_reads_what_we_read(tmp_path: Path, kind: str) -> None:
    ours = read_distorted(write(tmp_path / "my-digits", kind))
    assert ours.name == "my-digits"
    assert ours.classes == tuple("0123456789")
    for split, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(str(tmp_path / "my-digits"), train=train, download=False)
        assert torch.equal(theirs.data, split.images[:, 0])
        assert torch.equal(theirs.targets, split.targets)
        assert split.size == (KINDS[kind].canvas, KINDS[kind].canvas)


@every_kind
def test_the_parameters_saved_reproduce_every_pixel_from_the_source(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "a", kind)
    images, original = read_distorted(folder), source()
    for purpose, found, plain in (("train", images.train, original.train), ("test", images.test, original.test)):
        parameters = load_file(parameters_file(folder, purpose))
        for index in torch.arange(len(plain)).split(distorted.CHUNK):
            chosen = {name: value[index] for name, value in parameters.items()}
            again = to_bytes(distortion(kind).apply(plain.images[index].float() / 255, chosen))
            assert torch.equal(again, found.images[index])
        assert torch.equal(found.targets, plain.targets)


def test_bytes_are_the_nearest_of_256_levels() -> None:
    levels = torch.arange(256) / 255
    for off in (-0.49, 0.0, 0.49):
        assert torch.equal(to_bytes(levels + off / 255), torch.arange(256).to(torch.uint8))


def test_the_two_splits_are_distorted_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    train, test = (load_file(parameters_file(folder, purpose))["rotation"] for purpose in ("train", "test"))
    assert not torch.equal(train[: len(test)], test)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    steps = list(write_distorted(source(), distortion(), recipe(), tmp_path / "a"))
    assert steps == [(16, 65), (32, 65), (40, 65), (56, 65), (65, 65)]


def test_stopped_anywhere_and_run_again_the_bytes_are_the_same(tmp_path: Path) -> None:
    expected = hashes(write(tmp_path / "whole"))
    for chunks in range(1, 6):
        folder = tmp_path / f"stopped after {chunks}"
        begin(folder, chunks)
        assert not (folder / "manifest.json").exists()
        for refused in (read_distorted, lambda f: build_source(DataConfig(dataset=str(f)))):
            with pytest.raises(DataError, match=r"manifest\.json"):
                refused(folder)
        assert hashes(write(folder)) == expected


class Killed(BaseException):
    """The process ends where it stands: nobody cleans up."""


@pytest.mark.parametrize("owner", [os, Path])
def test_killed_inside_any_write_and_run_again_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object
) -> None:
    """At every fsync, and before every rename; the half-written temporary file stays, as a kill leaves it."""
    expected, name = hashes(write(tmp_path / "whole")), "fsync" if owner is os else "replace"
    sound, finished = getattr(owner, name), False
    for nth in range(1, 40):
        folder, left = tmp_path / f"killed at {nth}", nth

        def die(*given: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return sound(*given)

        with monkeypatch.context() as machine:
            machine.setattr(owner, name, die)
            machine.setattr(Path, "unlink", lambda *_, **__: None)
            try:
                write(folder)
                finished = True
            except Killed:
                assert not (folder / "manifest.json").exists() or hashes(folder).items() >= expected.items()
        assert hashes(write(folder)) == expected
        if finished:
            break
    assert finished
    assert nth > 8


def test_two_that_write_one_folder_take_turns_and_both_end_well(tmp_path: Path) -> None:
    expected, folder = hashes(write(tmp_path / "alone")), tmp_path / "shared"
    first, found = write_distorted(source(), distortion(), recipe(), folder), []
    next(first)
    second = threading.Thread(target=lambda: found.append(hashes(write(folder))))
    second.start()
    list(first)
    second.join()
    assert found == [expected]


def test_over_a_finished_folder_a_kill_leaves_no_manifest(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    begin(folder, 1)
    with pytest.raises(DataError, match="was not finished"):
        read_distorted(folder)


def test_another_dataset_is_not_overwritten_finished_or_not(tmp_path: Path) -> None:
    write(tmp_path / "finished")
    begin(tmp_path / "unfinished", 1)
    for folder in (tmp_path / "finished", tmp_path / "unfinished"):
        before = hashes(folder)
        for kind, seed in (("E", 0), ("R", 1)):
            with pytest.raises(UsageError, match="holds another dataset"):
                write(folder, kind, seed)
        assert hashes(folder) == before


def test_somebodys_own_files_are_not_touched(tmp_path: Path) -> None:
    """A folder that holds nothing but an MNIST looks much like one of ours."""
    (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"the original")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "parameters-of-my-thesis.txt").write_text("precious")
    for folder in (tmp_path / "data", tmp_path / "text"):
        before = hashes(folder)
        with pytest.raises(UsageError, match="holds other files"):
            write(folder)
        assert hashes(folder) == before
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UsageError, match="is a file"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


def test_colour_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    images = Split(torch.zeros(3, 3, 28, 28, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="is in colour"):
        next(write_distorted(Source("photos", images, images, ("a",)), distortion(), recipe(), tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write(tmp_path / "file" / "inside")


def test_a_flipped_bit_or_a_missing_file_is_noticed(tmp_path: Path) -> None:
    folder, rng = write(tmp_path / "a"), random.Random(0)
    for name in read_manifest(folder)["sha256"]:
        sound = (folder / name).read_bytes()
        for _ in range(10):
            mutated = bytearray(sound)
            mutated[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
            (folder / name).write_bytes(mutated)
            with pytest.raises(DataError, match=rf"{name} is not what was written: sha256 \w{{64}}, found \w{{64}}"):
                read_distorted(folder)
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"{name} is not what was written: .* found missing"):
            read_distorted(folder)
        (folder / name).write_bytes(sound)
    read_distorted(folder)


def test_a_damaged_manifest_is_refused_or_says_the_same(tmp_path: Path) -> None:
    folder, rng = write(tmp_path / "a"), random.Random(0)
    manifest, expected = folder / "manifest.json", read_distorted(folder)
    sound = manifest.read_bytes()
    damaged = [sound[:length] for length in range(0, len(sound) - 1, 7)]
    for place in rng.sample(range(8 * len(sound)), 400):
        mutated = bytearray(sound)
        mutated[place // 8] ^= 1 << place % 8
        damaged.append(bytes(mutated))
    damaged += [b"[]", b"3", b"null", b'"classes"', b"{}", sound.replace(b'"schema": 1', b'"schema": 2')]
    refused = 0
    for content in damaged:
        manifest.write_bytes(content)
        try:
            found = read_distorted(folder)
        except DataError:
            refused += 1
        else:
            assert torch.equal(found.train.images, expected.train.images)
    assert refused > len(damaged) / 2
    with pytest.raises(UsageError, match=r"holds another dataset\. .* or remove it"):
        write(folder)


def test_a_run_reads_the_folder_and_distorts_nothing_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "RTS")
    config = load_config(None, [f"data.dataset={folder}"])
    found = build_source(config.data)
    assert build_distortion(config.distortion) is None
    assert torch.equal(found.test.images, read_distorted(folder).test.images)


@pytest.mark.parametrize("name", ["nowhere", "x" * 300])
def test_what_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is neither a dataset nor a folder"):
        build_source(DataConfig(dataset=name))


def test_the_manifest_says_what_is_in_the_folder_and_the_preview_shows_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "E", seed=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["dataset"], manifest["seed"], manifest["size"]) == ("digits", 3, [28, 28])
    assert manifest["distortion"] == EConfig().model_dump(mode="json")
    assert manifest["images"] == {"train": 40, "test": 25}
    with Image.open(folder / "preview.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
