"""Which runner suits a machine is known before torch is, where that can be."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stn_cli.config import RuntimeConfig
from stn_cli.errors import ResourceError
from stn_cli.experiments.choose import choose_runner, may_have_gpu

pytestmark = pytest.mark.xdist_group("cores")  # which the processes of packed runs claim


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dev/nvidiactl", ""),
        ("dev/nvidia0", ""),
        ("dev/nvmap", ""),
        ("dev/kfd", ""),
        ("dev/dxg", ""),
        ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
    ],
)
def test_whatever_speaks_for_a_gpu_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str):
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "sys/bus/pci/devices/0000:00:00.0").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:00:00.0/vendor").write_text("0x8086\n")
    assert not may_have_gpu(tmp_path)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    assert may_have_gpu(tmp_path)


def test_elsewhere_than_on_linux_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert may_have_gpu(tmp_path)


def test_what_cannot_be_read_may_be_a_gpu(tmp_path: Path):
    (tmp_path / "sys/bus/pci/devices/0000:00:00.0/vendor").mkdir(parents=True)
    assert may_have_gpu(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_that_torch_sees_is_seen():
    assert may_have_gpu()


def test_a_device_that_is_not_there_is_said_before_anything_begins():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ResourceError, match="no cuda device"):
        choose_runner(RuntimeConfig(device="cuda"))


def test_seeds_are_handed_out_without_torch_where_there_is_no_gpu(tmp_path: Path):
    settings = ["--seeds", "0-1", "--iterations", "6", "model.name=fcn", "log.images=0", "--runs-dir", str(tmp_path)]
    code = (
        "import sys, stn_cli.experiments.choose as choose; choose.may_have_gpu = lambda: False;"
        "from stn_cli.cli.app import app;"
        f"app({['train', *settings]}, standalone_mode=False);"
        "print('with torch' if 'torch' in sys.modules else 'without torch')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "test error" in said
    assert said.endswith("without torch\n")
