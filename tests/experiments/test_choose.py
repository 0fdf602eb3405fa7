"""Which runner suits a machine is known before torch is, where that can be."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stn_cli.config import RuntimeConfig
from stn_cli.errors import ResourceError
from stn_cli.experiments.choose import choose_runner, may_have_gpu
from stn_cli.experiments.packed import Packed


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dev/nvidiactl", ""),
        ("dev/nvidia0", ""),
        ("dev/kfd", ""),
        ("dev/dxg", ""),
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
    ],
)
def test_whatever_speaks_for_a_gpu_is_seen(tmp_path: Path, file: str, content: str):
    (tmp_path / "sys/bus/pci/devices/0000:00:00.0").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:00:00.0/vendor").write_text("0x8086\n")
    assert not may_have_gpu(tmp_path)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert may_have_gpu(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_that_torch_sees_is_seen():
    assert may_have_gpu()


def test_a_device_that_is_not_there_is_said_before_anything_begins():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ResourceError, match="no cuda device"):
        choose_runner(RuntimeConfig(device="cuda"))


def test_runs_are_handed_out_on_cpus_without_torch():
    code = (
        "import sys; from stn_cli.config import RuntimeConfig; from stn_cli.experiments.choose import choose_runner;"
        "import stn_cli.cli.seeds, stn_cli.cli.runs_board, stn_cli.training.events;"
        "runner, why = choose_runner(RuntimeConfig(device='cpu'));"
        "print(type(runner).__name__, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{Packed.__name__} False\n"
