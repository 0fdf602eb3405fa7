"""Labels and pixels that are no such are counted, and the first is named."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from stn_cli.datasets.idx import write_idx
from stn_cli.datasets.relatives import RELATIVES
from tests.data_faults.conftest import LABELS, NAMES, TENSORS, Stn, refused


def changed(values: dict[int, int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
    labels = LABELS[:100].to(dtype, copy=True)
    for index, value in values.items():
        labels[index] = value
    return labels


FLOATS = struct.pack(">2I", 0x0D01, 100) + np.full(100, np.nan, dtype=">f4").tobytes()
NAN_PIXELS = struct.pack(">4I", 0x0D03, 100, 28, 28) + np.full(78_400, np.nan, dtype=">f4").tobytes()
NONSENSE: dict[str, tuple[str, int, torch.Tensor | bytes, str]] = {
    "negative": ("mine", 1, changed({4: -1, 7: -5}), "found 2 of 100 outside, the first is -1 at index 4"),
    "no class": ("mine", 1, changed({9: 2**31 - 1}), "found 1 of 100 outside, the first is 2147483647 at index 9"),
    "above ten": ("kmnist", 1, changed({5: 10, 6: 255}, torch.uint8), "2 of 100 outside, the first is 10 at index 5"),
    "below one": ("emnist-letters", 1, changed({}), "in 1..26, found 10 of 100 outside, the first is 0 at index 0"),
    "floats": ("mine", 1, FLOATS, "expected the IDX magic 00 00 08 01 (08 or 0c, 01 to 04), found 00 00 0d 01"),
    "one too few": ("mine", 1, LABELS[:99], "expected 100 labels, one for each image in mine/train-images-idx3-ubyte"),
    "NaN pixels": ("mine", 0, NAN_PIXELS, "expected the IDX magic 00 00 08 01 (08 or 0c, 01 to 04), found 00 00 0d 03"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_labels_and_pixels_that_are_none_are_counted_and_the_first_is_named(stn: Stn, nonsense: str):
    dataset, at, content, reason = NONSENSE[nonsense]
    folder = "mine" if dataset == "mine" else f"data/{RELATIVES[dataset].folder}/raw"
    names = NAMES if dataset == "mine" else RELATIVES[dataset].files
    for name, tensor in zip(names, TENSORS.values(), strict=True):
        write_idx(Path(folder, name), tensor)
    wrong = Path(folder, names[at])
    if isinstance(content, bytes):
        wrong.write_bytes(content)
    else:
        write_idx(wrong, content)
    if dataset != "mine":
        stn("train", "--dataset", dataset)  # the first use writes down the hashes of the files
    line = refused(stn, dataset)
    assert line.startswith(f"{wrong}: expected ")
    assert reason in line
