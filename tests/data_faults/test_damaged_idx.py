"""An IDX file that is cut, lies about its size or differs in one bit is refused by its name."""

import gzip
import random
import struct
from pathlib import Path

import pytest

from stn_cli.datasets.mnist import load_mnist
from stn_cli.errors import DataError
from tests.data_faults.conftest import IMAGES, NAMES, RAW, Stn, refused, write

SOUND = struct.pack(">4I", 0x0803, 100, 28, 28) + IMAGES[:100].numpy().tobytes()
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found an empty file"),
    **{f"cut at byte {at} of the magic": (SOUND[:at], f"found {SOUND[:at].hex(' ')}") for at in (1, 2, 3)},
    **{
        f"cut at byte {at} of the header": (SOUND[:at], f"12 bytes of dimensions, found {at - 4}")
        for at in range(4, 16)
    },
    "cut after the header": (SOUND[:16], "expected 78400 bytes of values for [100, 28, 28], found at most 0"),
    "cut by one byte": (SOUND[:-1], "found at most 78399"),
    "a byte too many": (SOUND + b"x", "expected 78400 bytes of values for [100, 28, 28], found more"),
    "wrong magic": (b"\x89PNG" + SOUND[4:], "found 89 50 4e 47"),
    "packed under a plain name": (gzip.compress(SOUND), "found 1f 8b 08"),
    "64 bits overflow": (struct.pack(">4I", 0x0803, 1 << 31, 1 << 31, 4) + SOUND[16:], "found at most 78400"),
    "32 bits overflow": (struct.pack(">4I", 0x0803, 1 << 16, 1 << 16, 1) + SOUND[16:], "found at most 78400"),
    "largest sizes": (b"\0\0\x08\x03" + b"\xff" * 12 + SOUND[16:], "found at most 78400"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_idx_file_is_named(stn: Stn, damage: str):
    content, reason = DAMAGED[damage]
    (write(Path("mine")) / NAMES[0]).write_bytes(content)
    line = refused(stn, "mine")
    assert line.startswith(f"mine/{NAMES[0]}: expected ")
    assert reason in line


def test_labels_cut_anywhere_are_named(stn: Stn):
    labels = write(Path("mine")) / NAMES[1]
    whole = labels.read_bytes()
    for length in (*range(8), 8, 50, len(whole) - 1):
        labels.write_bytes(whole[:length])
        assert refused(stn, "mine").startswith(f"{labels}: expected ")


@pytest.mark.parametrize("dataset", ["mnist", "kmnist", "digits-r"])
def test_one_flipped_bit_in_a_file_with_a_known_hash_is_noticed(stn: Stn, sent: dict[str, bytes], dataset: str):
    """Known from the table, from the first use, from the manifest."""
    raw = {"mnist": RAW, "kmnist": Path("data/KMNIST/raw"), "digits-r": Path("digits-r/MNIST/raw")}[dataset]
    if dataset == "digits-r":
        assert stn("distort-dataset", "R", "--out", dataset).code == 0
    else:
        write(raw)
        assert stn("distort-dataset", "R", "--dataset", dataset).code == 0
    draw = random.Random(0)
    for name in NAMES:
        whole = (raw / name).read_bytes()
        for place in (draw.randrange(64), *(draw.randrange(8 * len(whole)) for _ in range(4)), 8 * len(whole) - 1):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            (raw / name).write_bytes(damaged)
            assert refused(stn, dataset).startswith(str(raw / name))
        (raw / name).write_bytes(whole)


def test_no_mutation_of_a_file_with_a_known_hash_is_accepted(sent: dict[str, bytes]):
    write(RAW)
    draw = random.Random(0)
    for _ in range(300):
        file = RAW / draw.choice(NAMES)
        whole = file.read_bytes()
        start, length = draw.randrange(len(whole)), 1 << draw.randrange(10)
        piece = draw.choice([b"", draw.randbytes(length), bytes(length), whole[start : start + length] * 2])
        mutated = whole[:start] + piece + whole[draw.choice([start, start + length, start + len(piece)]) :]
        if mutated != whole:
            file.write_bytes(mutated)
            with pytest.raises(DataError, match=str(file)):
                load_mnist(Path("data"), offline=True)
            file.write_bytes(whole)
