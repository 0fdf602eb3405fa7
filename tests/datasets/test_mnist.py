import gzip
from pathlib import Path

import pytest
import torch

from stn_cli.datasets import mnist
from stn_cli.datasets.idx import idx_sha256, write_idx
from stn_cli.datasets.mnist import load_mnist, resolve_data_dir
from stn_cli.errors import DataError

IMAGES = (torch.arange(5 * 28 * 28) % 251).to(torch.uint8).view(5, 28, 28)
LABELS = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)
TENSORS = {
    "train-images-idx3-ubyte": IMAGES[:3],
    "train-labels-idx1-ubyte": LABELS[:3],
    "t10k-images-idx3-ubyte": IMAGES[3:],
    "t10k-labels-idx1-ubyte": LABELS[3:],
}


@pytest.fixture
def small(tmp_path, monkeypatch, mirror) -> Path:
    """A folder with a small MNIST; its mirror is a loopback server without any file yet."""
    monkeypatch.setattr(mnist, "FILES", {name: idx_sha256(tensor) for name, tensor in TENSORS.items()})
    monkeypatch.setattr(mnist, "MIRRORS", (mirror.url,))
    for name, tensor in TENSORS.items():
        write_idx(tmp_path / "MNIST" / "raw" / name, tensor)
    return tmp_path


def assert_small(source) -> None:
    assert torch.equal(source.train.images, IMAGES[:3].unsqueeze(1))
    assert torch.equal(source.test.images, IMAGES[3:].unsqueeze(1))
    assert source.train.targets.tolist() == [3, 1, 4]
    assert source.test.targets.tolist() == [1, 5]
    assert len(source.classes) == 10


def test_mirrors_are_https():
    assert len(mnist.MIRRORS) > 1
    assert all(url.startswith("https://") and url.endswith("/") for url in mnist.MIRRORS)


def test_real_mnist(mnist_dir):
    source = load_mnist(mnist_dir, offline=True)
    assert source.train.images.shape == (60000, 1, 28, 28)
    assert source.test.images.shape == (10000, 1, 28, 28)
    # The published class counts, and the mean 0.1307 that every tutorial normalises with.
    assert source.train.targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert source.test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert source.train.images.float().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)


def test_files_in_place_need_no_network(small, mirror):
    assert_small(load_mnist(small))
    assert mirror.requests == []


def test_gz_stands_in_for_a_missing_file_in_memory(small):
    raw = small / "MNIST" / "raw"
    for name in TENSORS:
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()
    before = sorted(raw.iterdir())
    assert_small(load_mnist(small, offline=True))
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize("name", TENSORS)
def test_one_flipped_bit_is_noticed_and_both_hashes_named(small, name):
    path = small / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path}: expected sha256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}") as caught:
        load_mnist(small)
    assert "Delete it and run again" in caught.value.fix


@pytest.mark.parametrize("packed", [False, True])
def test_cut_file_is_noticed(small, packed):
    path = small / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()[:-1]
    if packed:
        path.unlink()
        path = path.with_name(f"{path.name}.gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: expected 2352 bytes of values .*, found .*2351") as caught:
        load_mnist(small)
    assert "Delete it and run again" in caught.value.fix


def test_another_sound_file_in_its_place_is_noticed(small):
    write_idx(small / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", LABELS)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: expected sha256"):
        load_mnist(small)


def test_missing_files_are_downloaded_once(small, mirror):
    raw = small / "MNIST" / "raw"
    for name in list(TENSORS)[1:]:
        mirror.put(f"{name}.gz", gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()
    steps = []
    assert_small(load_mnist(small, progress=lambda *step: steps.append(step)))
    assert_small(load_mnist(small, offline=True))
    assert mirror.requests == [f"{name}.gz" for name in list(TENSORS)[1:]]
    assert len(steps) >= 3


@pytest.mark.parametrize(("offline", "why"), [(True, "downloads are off"), (False, "HTTP Error 404")])
def test_missing_file_is_named_with_the_ways_to_get_it(small, offline, why):
    raw = small / "MNIST" / "raw"
    (raw / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        load_mnist(small, offline=offline)
    assert caught.value.what.startswith(f"MNIST is not complete: t10k-images-idx3-ubyte not found in {raw} ")
    assert why in caught.value.what
    for way in (f"`stn train --dataset mnist --data-dir {small}`", f"four files into {raw}", "`--dataset digits`"):
        assert way in caught.value.fix


def test_offline_names_all_missing_files_and_asks_nobody(small, mirror, tmp_path):
    with pytest.raises(DataError, match=", ".join(TENSORS)):
        load_mnist(tmp_path / "elsewhere", offline=True)
    assert mirror.requests == []
    assert not (tmp_path / "elsewhere").exists()


def test_data_dir_is_the_option_then_the_environment_then_data(monkeypatch):
    monkeypatch.setenv("STN_DATA", "/env")
    assert resolve_data_dir(Path("option")) == Path("option")
    assert resolve_data_dir(None) == Path("/env")
    for unset in (lambda: monkeypatch.setenv("STN_DATA", ""), lambda: monkeypatch.delenv("STN_DATA")):
        unset()
        assert resolve_data_dir(None) == Path("data")
