"""Files of kinds that are not read are refused by their name: nothing is loaded, no object in them comes to life."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data_faults.conftest import Stn, refused


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def huge_array() -> bytes:
    """An npz that claims 1.7 TB and holds nothing."""
    header, content = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 31, 28, 28)})
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("images.npy", header.getvalue())
    return content.getvalue()


@pytest.mark.parametrize("name", ["huge.npz", "HUGE.NPZ", "broken.mat", "tensors.pt", "tensors.pth", "a.pkl", "a.npy"])
def test_files_of_other_kinds_are_refused_by_their_name_within_little_memory(stn: Stn, name: str):
    Path(name).write_bytes(b"MATLAB 5.0 MAT-file, cut" if name == "broken.mat" else huge_array())
    refused(stn, "nowhere")  # so that all is imported
    tracemalloc.start()
    line = refused(stn, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert line.startswith(f"{name}: {Path(name).suffix} files are not read. Convert it to IDX ")
    assert peak < 8 << 20


def test_objects_in_an_npz_are_not_unpickled(stn: Stn):
    np.savez("objects.npz", images=np.array([_Trap()], dtype=object))
    refused(stn, "objects.npz")
    assert not Path("sprung").exists()
    with np.load("objects.npz", allow_pickle=True) as objects:
        objects["images"]
    assert Path("sprung").exists(), "the trap works"
