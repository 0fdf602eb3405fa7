import gzip
import struct
from pathlib import Path

import pytest
import torch
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from stn_cli.datasets.idx import idx_sha256, label, read_idx, read_labelled, write_idx
from stn_cli.errors import DataError
from stn_cli.storage import sha256_of

SHAPES = [(5,), (0,), (2, 3), (2, 3, 4), (2, 0, 4), (2, 1, 3, 4)]


def ramp(*shape: int) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) * 37 % 256).to(torch.uint8).view(shape)


@pytest.mark.parametrize("name", ["a-idx", "a-idx.gz"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_written_is_read_back(tmp_path, name, shape):
    write_idx(tmp_path / name, ramp(*shape))
    assert torch.equal(read_idx(tmp_path / name), ramp(*shape))


def test_bytes_are_those_of_the_format(tmp_path):
    write_idx(tmp_path / "a", ramp(2, 3).T)
    assert (tmp_path / "a").read_bytes() == struct.pack(">I2I", 0x0802, 3, 2) + bytes([0, 111, 37, 148, 74, 185])


def test_gzip_holds_the_plain_file_and_no_date(tmp_path):
    write_idx(tmp_path / "a", ramp(2, 3))
    write_idx(tmp_path / "a.gz", ramp(2, 3))
    packed = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a").read_bytes()
    assert packed[4:8] == bytes(4)


def test_gz_path_may_hold_plain_content(tmp_path):
    write_idx(tmp_path / "a", ramp(2, 3))
    assert torch.equal(read_idx((tmp_path / "a").rename(tmp_path / "a.gz")), ramp(2, 3))


def test_plain_path_must_not_hold_gzip(tmp_path):
    write_idx(tmp_path / "a.gz", ramp(2, 3))
    with pytest.raises(DataError, match=r"expected the IDX magic 00 00 08 01 .*, found 1f 8b 08"):
        read_idx((tmp_path / "a.gz").rename(tmp_path / "a"))


@pytest.mark.parametrize("shape", SHAPES)
def test_sha256_of_a_tensor_is_that_of_its_file(tmp_path, shape):
    write_idx(tmp_path / "a", ramp(*shape))
    assert idx_sha256(ramp(*shape)) == sha256_of(tmp_path / "a")


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_every_cut_is_noticed(tmp_path, name):
    path = tmp_path / name
    write_idx(path, ramp(2, 3, 4))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{path}: expected .* found") as caught:
            read_idx(path)
        assert caught.value.fix


def test_every_extra_byte_is_noticed(tmp_path):
    path = tmp_path / "a.gz"
    write_idx(tmp_path / "a", ramp(2, 3, 4))
    plain = (tmp_path / "a").read_bytes()
    for content in (plain + b"x", gzip.compress(plain + b"x"), gzip.compress(plain) + b"x"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path}: expected .* found"):
            read_idx(path)


def test_no_flipped_bit_in_a_gzip_file_changes_the_values(tmp_path):
    path = tmp_path / "a.gz"
    write_idx(path, ramp(2, 3, 4))
    whole = path.read_bytes()
    refused = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert torch.equal(read_idx(path), ramp(2, 3, 4))
        except DataError:
            refused += 1
    assert refused >= 8 * (len(whole) - 10)  # the 10 bytes of gzip's own header hold a date and a system


@pytest.mark.parametrize("magic", ["00000800", "00000805", "000008ff", "00000903", "01000803", "00010803", "3c21444f"])
def test_wrong_magic_is_named(tmp_path, magic):
    (tmp_path / "a").write_bytes(bytes.fromhex(magic) + bytes(100))
    with pytest.raises(DataError, match=bytes.fromhex(magic).hex(" ")):
        read_idx(tmp_path / "a")


def test_empty_file_is_called_empty(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match="found an empty file"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize("pack", [bytes, lambda content: gzip.compress(content, mtime=0)])
@pytest.mark.parametrize("shape", [(2**32 - 1,) * 4, (2**31, 2**31, 4), (65536, 65536), (2**32 - 1,)])
def test_huge_dimensions_are_refused_before_memory_is_taken(tmp_path, monkeypatch, pack, shape):
    """(2**31, 2**31, 4) is 0 when counted in 64 bits, (65536, 65536) when counted in 32."""
    (tmp_path / "a.gz").write_bytes(pack(struct.pack(f">I{len(shape)}I", 0x0800 + len(shape), *shape) + bytes(64)))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("memory was asked for"))
    with pytest.raises(DataError, match=r"expected \d{10,} bytes of values"):
        read_idx(tmp_path / "a.gz")


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_idx(path)


@pytest.mark.parametrize("tensor", [torch.zeros(2), torch.zeros((), dtype=torch.uint8), ramp(1, 1, 1, 1, 1)])
def test_what_idx_cannot_hold_is_not_written(tmp_path, tensor):
    with pytest.raises(ValueError, match="IDX"):
        write_idx(tmp_path / "a", tensor)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def pair(tmp_path):
    def write(images: torch.Tensor, labels: list[int]) -> tuple[Path, Path]:
        write_idx(tmp_path / "images", images)
        write_idx(tmp_path / "labels", torch.tensor(labels, dtype=torch.uint8))
        return tmp_path / "images", tmp_path / "labels"

    return write


def test_labelled_images_get_a_channel_and_int64_targets(pair):
    split = read_labelled(*pair(ramp(3, 4, 5), [2, 0, 9]), classes=10)
    assert torch.equal(split.images, ramp(3, 1, 4, 5))
    assert torch.equal(split.targets, torch.tensor([2, 0, 9]))


def test_labels_out_of_range_are_counted_and_the_first_is_named(pair):
    with pytest.raises(DataError, match=r"labels: .* 0\.\.9, found 2 of 4 outside, the first is 10 at index 1"):
        read_labelled(*pair(ramp(4, 2, 2), [9, 10, 0, 255]), classes=10)


def test_counts_must_match(pair):
    with pytest.raises(DataError, match=r"labels: expected 3 labels, .*images, found the shape \[2\]"):
        read_labelled(*pair(ramp(3, 2, 2), [1, 2]), classes=10)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 1, 4, 5), (0, 4, 5), (3, 0, 5)])
def test_images_must_be_images(pair, shape):
    with pytest.raises(DataError, match=r"images: expected images \[N, H, W\], found the shape"):
        read_labelled(*pair(ramp(*shape), [0] * shape[0]), classes=10)


INTEGERS = torch.tensor([[0, 1, -1], [2**31 - 1, -(2**31), 0x01020304]], dtype=torch.int32)


@pytest.mark.parametrize("name", ["a-idx", "a-idx.gz"])
@pytest.mark.parametrize("tensor", [INTEGERS, INTEGERS.T, INTEGERS[:0], INTEGERS[0]])
def test_integers_are_read_back(tmp_path, name, tensor):
    write_idx(tmp_path / name, tensor)
    read = read_idx(tmp_path / name)
    assert read.dtype == torch.int32
    assert torch.equal(read, tensor)
    if not name.endswith(".gz"):
        assert idx_sha256(tensor) == sha256_of(tmp_path / name)


def test_integers_are_big_endian(tmp_path):
    write_idx(tmp_path / "a", INTEGERS[1])
    assert (tmp_path / "a").read_bytes() == struct.pack(">I", 0x0C01) + struct.pack(">I3i", 3, *INTEGERS[1].tolist())


def test_integers_are_those_of_torchvision(tmp_path):
    write_idx(tmp_path / "a", INTEGERS)
    assert torch.equal(read_sn3_pascalvincent_tensor(str(tmp_path / "a")), INTEGERS)


def test_every_cut_of_integers_is_noticed(tmp_path):
    write_idx(tmp_path / "a", INTEGERS)
    whole = (tmp_path / "a").read_bytes()
    for content in (*(whole[:length] for length in range(len(whole))), whole + b"x"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match=r"a: expected .* found"):
            read_idx(tmp_path / "a")


def test_integers_are_no_images(pair):
    with pytest.raises(DataError, match=r"images: expected images \[N, H, W\], found the shape .* of torch.int32"):
        read_labelled(*pair(ramp(3, 2, 2).int(), [0, 0, 0]), classes=10)


def test_labels_may_be_integers_and_begin_anywhere(tmp_path):
    paths = (tmp_path / "images", tmp_path / "labels")
    assert label(ramp(3, 2, 2), INTEGERS[0], paths, classes=3, first=-1).targets.tolist() == [1, 2, 0]
    with pytest.raises(DataError, match=r"labels: .* 0\.\.1, found 1 of 3 outside, the first is -1 at index 2"):
        label(ramp(3, 2, 2), INTEGERS[0], paths, classes=2)
    with pytest.raises(DataError, match=r"labels: .* 1\.\.26, found 2 of 3 outside, the first is 0 at index 0"):
        label(ramp(3, 2, 2), INTEGERS[0], paths, classes=26, first=1)
