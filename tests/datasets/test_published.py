import dataclasses
import gzip
import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from stn_cli.datasets import published
from stn_cli.datasets.idx import idx_sha256, read_idx, write_idx
from stn_cli.datasets.published import Published, load_published
from stn_cli.datasets.source import Source
from stn_cli.errors import DataError, ResourceError

IMAGES = (torch.arange(9 * 3 * 4) % 251).to(torch.uint8).view(9, 3, 4)
LABELS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5], dtype=torch.uint8)
TENSORS = {"a-images": IMAGES[:5], "a-labels": LABELS[:5], "b-images": IMAGES[5:], "b-labels": LABELS[5:]}


def packed(tensor: torch.Tensor, path: Path) -> bytes:
    write_idx(path, tensor)
    content = gzip.compress(path.read_bytes(), mtime=1)
    path.unlink()
    return content


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def small(tmp_path, mirror) -> Published:
    """A dataset of which the MD5 of the downloads is known, waiting on the mirror."""
    packs = {f"{name}.gz": packed(tensor, tmp_path / "scratch") for name, tensor in TENSORS.items()}
    for name, content in packs.items():
        mirror.put(name, content)
    return Published(
        name="small",
        title="Small",
        folder="Small",
        files=("a-images", "a-labels", "b-images", "b-labels"),
        classes=tuple("0123456789"),
        mirrors=(mirror.url,),
        md5={name: md5(content) for name, content in packs.items()},
    )


@pytest.fixture
def archived(small, tmp_path, mirror) -> Published:
    """The same dataset in one zip, with a second dataset that has its training files for everything."""
    with zipfile.ZipFile(tmp_path / "scratch.zip", "w") as zipped:
        for name, tensor in TENSORS.items():
            zipped.writestr(f"gzip/{name}.gz", packed(tensor, tmp_path / "scratch"))
        zipped.writestr("gzip/c-images.gz", packed(IMAGES, tmp_path / "scratch"))
        zipped.writestr("gzip/c-labels.gz", packed(LABELS, tmp_path / "scratch"))
    content = (tmp_path / "scratch.zip").read_bytes()
    mirror.put("all.zip", content)
    return dataclasses.replace(small, md5={"all.zip": md5(content)}, archive="all.zip")


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "Small" / "raw"


def assert_small(source: Source) -> None:
    assert torch.equal(source.train.images, IMAGES[:5].unsqueeze(1))
    assert torch.equal(source.test.images, IMAGES[5:].unsqueeze(1))
    assert torch.cat([source.train.targets, source.test.targets]).tolist() == LABELS.tolist()
    assert (source.name, len(source.classes)) == ("small", 10)


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_downloads_are_checked_and_their_content_recorded(small, tmp_path, raw, mirror):
    assert_small(load_published(small, tmp_path))
    assert files_in(raw) == {*TENSORS, *(f"{name}.sha256" for name in TENSORS)}
    for name, tensor in TENSORS.items():
        assert (raw / f"{name}.sha256").read_text() == f"{idx_sha256(tensor)}  {name}\n"
    assert_small(load_published(small, tmp_path, offline=True))
    assert mirror.requests == [f"{name}.gz" for name in TENSORS]


def test_download_with_another_md5_is_refused(small, tmp_path, raw, mirror):
    mirror.put("b-labels.gz", packed(LABELS[:4], tmp_path / "scratch"))
    with pytest.raises(DataError, match=r"b-labels not found in .*: expected md5 [0-9a-f]{32}, found [0-9a-f]{32}"):
        load_published(small, tmp_path)
    assert not (raw / "b-labels").exists()


@pytest.mark.parametrize("name", TENSORS)
def test_one_flipped_bit_is_noticed_from_the_second_use_on(small, tmp_path, raw, name):
    load_published(small, tmp_path)
    content = bytearray((raw / name).read_bytes())
    content[-1] ^= 1
    (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{raw / name}: expected sha256 \w{{64}}, found \w{{64}}") as caught:
        load_published(small, tmp_path)
    assert "Delete it and run again" in caught.value.fix
    (raw / name).unlink()
    assert_small(load_published(small, tmp_path))


def test_deleting_a_wrong_file_helps_even_if_it_was_recorded(small, tmp_path, raw):
    write_idx(raw / "a-labels", LABELS[:3])
    with pytest.raises(DataError, match="a-labels: expected 5 labels"):
        load_published(small, tmp_path)
    assert (raw / "a-labels.sha256").exists()
    (raw / "a-labels").unlink()
    assert_small(load_published(small, tmp_path))
    assert_small(load_published(small, tmp_path, offline=True))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", bytes(200), b"a" * 63 + b"\n", b"A" * 64 + b"\n"])
def test_damaged_record_is_named(small, tmp_path, raw, content):
    load_published(small, tmp_path)
    (raw / "a-images.sha256").write_bytes(content)
    with pytest.raises(DataError, match=r"a-images\.sha256: expected a SHA-256, found b'") as caught:
        load_published(small, tmp_path)
    assert caught.value.fix == "Delete it and run again"
    (raw / "a-images.sha256").unlink()
    assert_small(load_published(small, tmp_path))


def put_packed_only(raw: Path, small: Published, mirror) -> None:
    raw.mkdir(parents=True)
    for name in small.md5:
        (raw / name).write_bytes(mirror.answers[name][2])


def test_gz_stands_in_for_a_missing_file_and_must_have_its_md5_at_first_use(small, tmp_path, raw, mirror):
    put_packed_only(raw, small, mirror)
    (raw / "b-images.gz").write_bytes(packed(IMAGES[5:] ^ 1, tmp_path / "scratch"))
    with pytest.raises(DataError, match=r"b-images\.gz: expected md5 \w{32}, found \w{32}"):
        load_published(small, tmp_path, offline=True)
    (raw / "b-images.gz").write_bytes(mirror.answers["b-images.gz"][2])
    assert_small(load_published(small, tmp_path, offline=True))


def test_gz_may_be_packed_anew_once_its_content_is_recorded(small, tmp_path, raw, mirror):
    put_packed_only(raw, small, mirror)
    load_published(small, tmp_path, offline=True)
    for name, tensor in TENSORS.items():
        write_idx(raw / f"{name}.gz", tensor)
    assert_small(load_published(small, tmp_path, offline=True))
    write_idx(raw / "b-labels.gz", LABELS[:4])
    with pytest.raises(DataError, match=r"b-labels\.gz: expected sha256"):
        load_published(small, tmp_path, offline=True)


def test_folder_that_may_not_be_written_is_read_without_a_record(small, tmp_path, raw, monkeypatch):
    for name, tensor in TENSORS.items():
        write_idx(raw / name, tensor)
    monkeypatch.setattr(published.os, "access", lambda *_: False)
    assert_small(load_published(small, tmp_path))
    assert files_in(raw) == set(TENSORS)


@pytest.mark.parametrize("missing", [["a-images"], ["a-labels", "b-labels"]])
def test_missing_files_are_named_with_the_ways_to_get_them(small, tmp_path, raw, mirror, missing):
    load_published(small, tmp_path)
    mirror.requests.clear()
    for name in missing:
        (raw / name).unlink()
    with pytest.raises(DataError) as caught:
        load_published(small, tmp_path, offline=True)
    assert caught.value.what == (
        f"Small is not complete: {', '.join(missing)} not found in {raw} (nor with .gz), and downloads are off"
    )
    for way in (f"`stn train --dataset small --data-dir {tmp_path}`", f"four files into {raw}", "`--dataset digits`"):
        assert way in caught.value.fix
    assert mirror.requests == []


def test_archive_is_downloaded_once_for_all_that_it_holds(archived, tmp_path, raw, mirror):
    assert_small(load_published(archived, tmp_path))
    assert files_in(raw) == {"all.zip", *TENSORS, *(f"{name}.sha256" for name in TENSORS)}
    other = dataclasses.replace(archived, files=("c-images", "c-labels", "c-images", "c-labels"))
    assert torch.equal(load_published(other, tmp_path, offline=True).test.images[:, 0], IMAGES)
    assert mirror.requests == ["all.zip"]


def test_unpacked_files_are_those_in_the_gzip_streams(archived, tmp_path, raw):
    load_published(archived, tmp_path)
    with zipfile.ZipFile(raw / "all.zip") as zipped:
        for name in TENSORS:
            assert (raw / name).read_bytes() == gzip.decompress(zipped.read(f"gzip/{name}.gz"))


def test_archive_that_was_changed_is_named(archived, tmp_path, raw, mirror):
    raw.mkdir(parents=True)
    (raw / "all.zip").write_bytes(mirror.answers["all.zip"][2] + b"x")
    with pytest.raises(DataError, match=rf"{raw}/all\.zip: expected md5 \w{{32}}, found \w{{32}}") as caught:
        load_published(archived, tmp_path)
    assert "Delete it and run again" in caught.value.fix


def test_missing_archive_is_named(archived, tmp_path, raw, mirror):
    for offline, why in ((True, "downloads are off"), (False, "cannot download all.zip: .* HTTP Error 404")):
        mirror.answers.clear()
        with pytest.raises(DataError, match=why) as caught:
            load_published(archived, tmp_path, offline=offline)
        assert f"copy the four files or all.zip into {raw}" in caught.value.fix


def test_archive_without_a_member_is_named(archived, tmp_path):
    other = dataclasses.replace(archived, files=("a-images", "a-labels", "d-images", "d-labels"))
    with pytest.raises(DataError, match=r"all\.zip: expected a file 'gzip/d-images\.gz', found none"):
        load_published(other, tmp_path)


def test_several_at_once_end_well(archived, tmp_path, mirror):
    with ThreadPoolExecutor(4) as pool:
        for source in pool.map(lambda _: load_published(archived, tmp_path), range(4)):
            assert_small(source)
    assert mirror.requests == ["all.zip"]


def test_unpacking_where_nothing_can_be_written_is_a_fault_of_the_folder(archived, tmp_path, raw, monkeypatch):
    load_published(archived, tmp_path)
    (raw / "a-labels").unlink()
    (raw / ".a-labels.gz").mkdir()
    with pytest.raises(ResourceError, match=r"cannot write .*\.a-labels\.gz"):
        load_published(archived, tmp_path)


def test_oddities_of_a_dataset_are_evened_out(small, tmp_path, raw):
    labels = torch.stack([LABELS.int() + 7, torch.arange(9, dtype=torch.int32)], dim=1)
    for name, tensor in (("images", IMAGES), ("labels", labels)):
        write_idx(raw / name, tensor)
    odd = dataclasses.replace(
        small, files=("images", "labels", "images", "labels"), first_label=7, transposed=True, test_rows=(2, 5)
    )
    source = load_published(odd, tmp_path)
    assert torch.equal(source.train.images, IMAGES.transpose(1, 2).unsqueeze(1))
    assert source.train.images.is_contiguous()
    assert source.train.targets.tolist() == LABELS.tolist()
    assert torch.equal(source.test.images, source.train.images[2:5])
    assert source.test.targets.tolist() == LABELS[2:5].tolist()
    write_idx(raw / "labels", labels[:, :0])
    (raw / "labels.sha256").unlink()
    with pytest.raises(DataError, match=r"labels: expected 9 labels"):
        load_published(odd, tmp_path)


def test_record_is_what_sha256sum_checks(small, tmp_path, raw):
    load_published(small, tmp_path)
    for record in raw.glob("*.sha256"):
        digest, name = record.read_text().rstrip("\n").split("  ")
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == digest == idx_sha256(read_idx(raw / name))
