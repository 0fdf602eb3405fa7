import errno
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stn_cli.datasets import manifest
from stn_cli.datasets.manifest import DamagedFolderError, Verified, read_manifest, verify, write_manifest
from stn_cli.errors import DataError

CONTENTS = {
    "train/a/00000.png": b"",
    "train/a b/1.png": b"small",
    "é.bin": bytes(range(256)) * 3000,
    "preview.png": b"x",
}


def write(folder: Path, **other: Any) -> Path:
    """Write files, and the manifest of them with some `other` content."""
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    head = {"schema": 2, "dataset": "digits", "distortion": {"kind": "R"}, "seed": 3, "classes": ["a", "é\n"]}
    rest = {"format": "png", "images": {"train": 2, "test": 0}, "sample_shape": [1, 2, 3], "sha256": hashes}
    write_manifest(folder, {**head, **rest, **other})
    return folder


def forge(folder: Path, **other: Any) -> None:
    """Change the manifest, and its own hash with it."""
    content = json.loads((folder / "manifest.json").read_text()) | other
    del content["manifest_sha256"]
    write_manifest(folder, content)


def faults_of(folder: Path) -> list[str]:
    with pytest.raises(DamagedFolderError) as caught:
        verify(folder)
    assert str(caught.value).splitlines()[-1].endswith((manifest.AGAIN, "Move it elsewhere."))
    return [fault.removeprefix(f"{folder}/") for fault in caught.value.faults]


def test_verifying_loads_nothing_heavy() -> None:
    code = "import sys, stn_cli.datasets.manifest; print(*{'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_what_is_written_is_read_with_its_own_hash(tmp_path: Path) -> None:
    write(tmp_path, versions={"torch": "2"}, ranges=(0.1, 1e-9), by_number={10: "ten", 9: "nine"})
    found = read_manifest(tmp_path)
    assert found["ranges"] == [0.1, 1e-9]
    own = found.pop("manifest_sha256")
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"))
    assert own == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_sound_folder_is_counted(tmp_path: Path) -> None:
    assert verify(write(tmp_path)) == Verified(len(CONTENTS), sum(map(len, CONTENTS.values())))


def test_what_a_run_leaves_beside_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (".manifest.json.lock", "train/.00000.png.x1.tmp", "unfinished.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "train" / "a class without images").mkdir()
    verify(tmp_path)


def test_every_kind_of_fault_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    before = hashlib.sha256(CONTENTS["preview.png"]).hexdigest()
    (tmp_path / "preview.png").write_bytes(b"y")
    (tmp_path / "train/a/00000.png").unlink()
    (tmp_path / "train/a/foreign\n.png").write_bytes(b"")
    (tmp_path / ".link").symlink_to("preview.png")
    os.mkfifo(tmp_path / "pipe")
    sound = os.open

    def broken(path: str, *given: Any, **named: Any) -> int:
        if str(path).endswith("1.png"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return sound(path, *given, **named)

    monkeypatch.setattr(os, "open", broken)
    small = hashlib.sha256(b"small").hexdigest()
    assert faults_of(tmp_path) == [
        ".link is a link, which may lead anywhere",
        "pipe is no plain file",
        f"preview.png is not what was written: sha256 {before}, found {hashlib.sha256(b'y').hexdigest()}",
        f"train/a b/1.png is not what was written: sha256 {small}, found nothing that can be read: Permission denied",
        "train/a/00000.png is missing",
        f"'{tmp_path}/train/a/foreign\\n.png' is not named in manifest.json",
    ]


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "folder")
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert faults_of(folder) == [
        "train is a link, which may lead anywhere",
        "train/a b/1.png is missing",
        "train/a/00000.png is missing",
    ]


def test_only_foreign_files_need_no_new_folder(tmp_path: Path) -> None:
    (write(tmp_path) / "notes.txt").write_text("precious")
    with pytest.raises(DataError, match=r"notes\.txt is not named in manifest\.json\. Move it elsewhere\.$"):
        verify(tmp_path)


def test_ten_faults_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    write(tmp_path)
    for number in range(14):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.raises(DamagedFolderError) as caught:
        verify(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(caught.value.faults) == 14
    assert [line.split()[0] for line in lines[:10]] == [str(tmp_path / f"{number:02}.png") for number in range(10)]
    assert lines[10:] == ["and 4 more. Move it elsewhere."]


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path: Path) -> None:
    file, content, rng = write(tmp_path) / "é.bin", CONTENTS["é.bin"], random.Random(0)
    for place in rng.sample(range(8 * len(content)), 20):
        mutated = bytearray(content)
        mutated[place // 8] ^= 1 << place % 8
        file.write_bytes(mutated)
        assert len(faults_of(tmp_path)) == 1


def test_a_damaged_manifest_is_refused_or_says_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    file, expected, rng = tmp_path / "manifest.json", read_manifest(tmp_path), random.Random(0)
    sound = file.read_bytes()
    damaged = [sound[:length] for length in range(len(sound) - 1)]
    for place in rng.sample(range(8 * len(sound)), 2000):
        mutated = bytearray(sound)
        mutated[place // 8] ^= 1 << place % 8
        damaged.append(bytes(mutated))
    damaged += [b"", b"[]", b"3", b"null", b'"classes"', b"{}", b"[" * 100_000, b'{"a":' * 600 + b"0" + b"}" * 600]
    refused = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            assert read_manifest(tmp_path) == expected
        except DataError:
            refused += 1
    assert refused > 0.9 * len(damaged)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (1, "has schema 1, .* Write it again"),
        (3, "has schema 3, .* Upgrade stn"),
        ("2", "no schema"),
        (True, "no schema"),
    ],
)
def test_another_schema_is_named(tmp_path: Path, schema: object, message: str) -> None:
    write(tmp_path, schema=schema)
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path)


def test_a_manifest_of_an_older_stn_is_too_old_before_it_lacks_anything(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema": 1, "dataset": "digits"}')
    with pytest.raises(DataError, match="Write it again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "key", ["dataset", "distortion", "seed", "classes", "sha256", "format", "images", "sample_shape"]
)
def test_a_lacking_key_is_named(tmp_path: Path, key: str) -> None:
    write(tmp_path)
    content = read_manifest(tmp_path)
    del content[key]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"lacks {key}"):
        verify(tmp_path)


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    content = read_manifest(write(tmp_path)) | {"seed": 4}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="was edited or damaged"):
        verify(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "./x",
        "a//x",
        "a/",
        "",
        "..",
        "a\\x",
        "C:x",
        "c:/x",
        "a\0x",
        "\ud800",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    forge(tmp_path, sha256={name: ""})
    with pytest.raises(DataError, match="names a file outside of its folder"):
        verify(tmp_path)


def test_hashes_that_are_no_table_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    forge(tmp_path, sha256=["preview.png"])
    with pytest.raises(DataError, match="damaged"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["..a/..b", "a..", "...", "a b/é"])
def test_a_name_with_dots_inside_is_none(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    forge(tmp_path, sha256={name: ""})
    assert list(read_manifest(tmp_path)["sha256"]) == [name]


def test_no_folder_no_manifest_and_one_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"has no manifest\.json, so it was not finished"):
            verify(folder)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(DataError, match="cannot read"):
        verify(tmp_path)
