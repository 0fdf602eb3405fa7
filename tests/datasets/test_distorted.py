import json
import os
import shutil
import threading
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.datasets import MNIST

from stn_cli.config import DataConfig, RunConfig
from stn_cli.config_files import load_config
from stn_cli.datasets import distorted, parameters
from stn_cli.datasets.build import build_scene, build_source
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import (
    Recipe,
    choose_format,
    map_samples,
    parameters_file,
    read_distorted,
    write_distorted,
)
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.manifest import read_manifest, verify
from stn_cli.datasets.scene import Scene, Single
from stn_cli.datasets.source import Source, Split
from stn_cli.errors import DataError, ResourceError, UsageError
from stn_cli.storage import sha256_of

KINDS: dict[str, dict[str, Any]] = {
    "R": {"kind": "R"},
    "RTS": {"kind": "RTS"},
    "P": {"kind": "P"},
    "E": {"kind": "E"},
    "T": {"kind": "T"},
    "TC": {"kind": "TC", "pieces": 3},
    "chain": {"kind": "chain", "stages": [{"kind": "R"}, {"kind": "E"}]},
    "addition": {"kind": "addition"},
    "volume": {"kind": "volume", "canvas": 40},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_image = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("addition", "volume")])


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distorted, "CHUNK", 16)


def source(train: int = 40, test: int = 25) -> Source:
    digits = load_digits()
    parts = [Split(s.images[:n], s.targets[:n]) for s, n in ((digits.train, train), (digits.test, test))]
    return replace(digits, train=parts[0], test=parts[1])


def colour() -> Source:
    plain = source()
    divisors = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]
    parts = [Split(s.images.repeat(1, 3, 1, 1) // divisors, s.targets) for s in (plain.train, plain.test)]
    return Source("photos", parts[0], parts[1], plain.classes)


def scene(kind: str = "R", of: Source | None = None) -> Scene:
    return build_scene(RunConfig.model_validate({"distortion": KINDS[kind]}).distortion, of or source())


def recipe(kind: str = "R", seed: int = 0, **others: Any) -> Recipe:
    settings = RunConfig.model_validate({"distortion": KINDS[kind]}).distortion.model_dump(mode="json")
    return Recipe("digits", settings, seed, **({"format": choose_format(None, scene(kind))} | others))


def write(folder: Path, kind: str = "R", seed: int = 0, **others: Any) -> Path:
    list(write_distorted(source(), scene(kind), recipe(kind, seed, **others), folder))
    return folder


def begin(folder: Path, chunks: int) -> None:
    """Write some of the chunks, then stop."""
    with closing(write_distorted(source(), scene(), recipe(), folder)) as stream:
        list(islice(stream, chunks))


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


@every_kind
def test_the_same_recipe_writes_the_same_bytes_and_another_seed_others(tmp_path: Path, kind: str) -> None:
    first = hashes(write(tmp_path / "a", kind))
    assert {"manifest.json", "parameters-test.safetensors", "parameters-train.safetensors", "preview.png"} < set(first)
    assert hashes(write(tmp_path / "b", kind)) == first
    assert hashes(write(tmp_path / "a", kind)) == first, "over itself"
    other = hashes(write(tmp_path / "c", kind, seed=1))
    assert {name for name in first if first[name] == other[name]} == {name for name in first if "labels" in name}


@every_image
def test_torchvision_reads_what_we_read(tmp_path: Path, kind: str) -> None:
    ours = read_distorted(write(tmp_path / "my-digits", kind))
    assert ours.name == "my-digits"
    assert ours.classes == tuple("0123456789")
    for split, train in ((ours.train, True), (ours.test, False)):
        theirs = MNIST(str(tmp_path / "my-digits"), train=train, download=False)
        assert torch.equal(theirs.data, split.images[:, 0])
        assert torch.equal(theirs.targets, split.targets)
        assert split.size == scene(kind).shape[1:]


@every_kind
@pytest.mark.parametrize("kept", ["idx", "png", "safetensors"])
def test_the_parameters_saved_reproduce_every_pixel_from_the_source(tmp_path: Path, kind: str, kept: str) -> None:
    """In another order and in other chunks, in whatever format."""
    made = scene(kind)
    if choose_format(None, made) != "idx" and kept != "safetensors":
        with pytest.raises(UsageError, match="these samples have 2"):
            write(tmp_path / "a", kind, format=kept)
        return
    if kind == "volume" and kept == "png":
        with pytest.raises(UsageError, match="these samples are volumes"):
            write(tmp_path / "a", kind, format=kept)
        return
    folder = write(tmp_path / "a", kind, format=kept)
    for purpose, plain in (("train", source().train), ("test", source().test)):
        saved = load_file(parameters_file(folder, purpose))
        assert saved.pop("source_image").tolist() == list(range(len(plain)))
        if kept == "png":
            split = getattr(read_distorted(folder), purpose)
            images, targets = split.images, split.targets
        else:
            images, targets = map_samples(folder, purpose)
        loader = BatchLoader(plain, made, torch.device("cpu"))
        for index in torch.randperm(len(plain), generator=torch.Generator().manual_seed(0)).split(7):
            chosen = {name: value[index] for name, value in saved.items()}
            assert torch.equal(loader.render(index, chosen), images[index])
            assert torch.equal(loader.targets(index, chosen), targets[index])


@every_kind
def test_asking_for_more_changes_nothing_that_was_there(tmp_path: Path, kind: str) -> None:
    few, many = write(tmp_path / "few", kind, limit=9), write(tmp_path / "many", kind, copies=3)
    for purpose, count in (("train", 40), ("test", 25)):
        (a, _), (b, targets) = map_samples(few, purpose), map_samples(many, purpose)
        assert len(b) == 3 * count
        assert torch.equal(a, b[:9])
        saved = load_file(parameters_file(many, purpose))
        assert saved["source_image"].tolist() == 3 * list(range(count))
        assert len(targets) == 3 * count
        copies = [b[k * count : (k + 1) * count] for k in range(3)]
        assert not torch.equal(copies[0], copies[1])
        assert not torch.equal(copies[1], copies[2])
        if kind != "addition":
            assert torch.equal(targets[:count], targets[count : 2 * count])


def test_a_folder_holds_what_training_without_a_folder_sees(tmp_path: Path) -> None:
    images = read_distorted(write(tmp_path / "a", "E", seed=3)).test.images
    frozen = FrozenSet(BatchLoader(source().test, scene("E"), torch.device("cpu")), 3, "test")
    assert (next(frozen.batches(25)).images * 255 - images).abs().max() < 0.51


def test_a_folder_distorted_once_more_gets_another_draw(tmp_path: Path) -> None:
    """The same seed twice must not turn every digit twice by the same angle."""
    once = read_distorted(write(tmp_path / "a"))
    assert once.lineage
    list(write_distorted(once, scene(of=once), recipe(), tmp_path / "b"))
    first, second = (load_file(parameters_file(tmp_path / name, "test"))["rotation"] for name in "ab")
    assert not torch.equal(first, second)


def test_colour_stays_colour(tmp_path: Path) -> None:
    photos = colour()
    assert choose_format(None, scene(of=photos)) == "png"
    with pytest.raises(UsageError, match=r"IDX files hold one channel.*png, safetensors"):
        choose_format("idx", scene(of=photos))
    list(write_distorted(photos, scene(of=photos), recipe(format="png"), tmp_path / "a"))
    found, grey = read_distorted(tmp_path / "a").test, read_distorted(write(tmp_path / "b")).test
    assert torch.equal(found.images[:, 0], grey.images[:, 0])
    assert 0 < int(found.images[:, 2].max()) < int(found.images[:, 1].max()) < int(found.images[:, 0].max())


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ResourceError, match=r"needs 0\.0 GB, its disk has 0\.0 GB left.*--limit"):
        write(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_parameters_need_room_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, parameters = 65 * 60 * 60, 65 * (8 + 8 + 3 * (8 + 16 + 16))  # source image, corner, and three pieces
    for free in (images, images + parameters - 1, images + parameters):
        usage = shutil._ntuple_diskusage(10**9, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, usage=usage: usage)
        if free < images + parameters:
            with pytest.raises(ResourceError, match="needs 0"):
                write(tmp_path / "a", "TC")
        else:
            write(tmp_path / "a", "TC")


def test_the_memory_needed_does_not_grow_with_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = WeakSet[FrozenSet](), 0

    class Counted(FrozenSet):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(parameters, "FrozenSet", Counted)
    write(tmp_path / "a", "TC", copies=9)
    assert most <= 3  # the next one, the one before, and the last of the other split


def test_the_two_splits_are_distorted_apart(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    train, test = (load_file(parameters_file(folder, purpose))["rotation"] for purpose in ("train", "test"))
    assert not torch.equal(train[: len(test)], test)


def test_progress_counts_every_image(tmp_path: Path) -> None:
    steps = list(write_distorted(source(), scene(), recipe(), tmp_path / "a"))
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
    first, found = write_distorted(source(), scene(), recipe(), folder), []
    next(first)
    second = threading.Thread(target=lambda: found.append(hashes(write(folder))))
    second.start()
    list(first)
    second.join()
    assert found == [expected]


def test_a_finished_folder_is_not_put_at_risk_and_a_damaged_one_is_written_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    expected, written = hashes(folder), (folder / "preview.png").stat().st_mtime_ns
    begin(folder, 1)
    assert hashes(folder) == expected
    assert (folder / "preview.png").stat().st_mtime_ns == written
    (folder / "parameters-test.safetensors").write_bytes(b"damaged")
    assert hashes(write(folder)) == expected


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


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write(tmp_path / "file" / "inside")


def test_what_is_not_as_it_was_written_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for name in read_manifest(folder)["sha256"]:
        sound = (folder / name).read_bytes()
        (folder / name).write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(DataError, match=rf"{name} is not what was written: sha256 \w{{64}}, found \w{{64}}"):
            read_distorted(folder)
        (folder / name).write_bytes(sound)
    read_distorted(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds another dataset\. .* or remove it"):
        write(folder)


def test_a_run_reads_the_folder_and_distorts_nothing_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "RTS")
    config = load_config(None, [f"data.dataset={folder}"])
    found = build_source(config.data)
    made = build_scene(config.distortion, found)
    assert isinstance(made, Single)
    assert made.distortion is None
    assert torch.equal(found.test.images, read_distorted(folder).test.images)


@pytest.mark.parametrize("name", ["nowhere", "x" * 300])
def test_what_is_no_dataset_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is neither a dataset nor a folder"):
        build_source(DataConfig(dataset=name))


def test_the_manifest_says_what_is_in_the_folder_and_the_preview_shows_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "E", seed=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["dataset"], manifest["seed"], manifest["sample_shape"]) == ("digits", 3, [1, 28, 28])
    assert manifest["distortion"] == {
        "kind": "E",
        "canvas": None,
        "scale": [0.75, 1.0],
        "control_point_sigma": 1.5,
    }
    assert manifest["images"] == {"train": 40, "test": 25}
    assert manifest["source"]["shape"] == [1, 28, 28]
    assert set(manifest["sha256"]) == set(hashes(folder)) - {"manifest.json"}
    assert verify(folder).files == 7
    with Image.open(folder / "preview.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
