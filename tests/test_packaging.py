"""The wheel: everything a user needs, nothing else, and it works far from the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stn_cli.config_files import shipped_configs
from stn_cli.experiments.grid import shipped_grids

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation nothing is downloaded: hatchling is in the test extra.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", str(REPOSITORY), *options, "--wheel-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("stn_cli-*-py3-none-any.whl")
    return built


def test_the_wheel_holds_the_package_its_configs_and_digits_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "stn_cli"
    ours = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    expected = {file.relative_to(REPOSITORY).as_posix() for file in ours}
    expected |= {f"stn_cli/configs/{name}.yaml" for name in shipped_configs()}
    expected |= {f"stn_cli/configs/tables/{name}.yaml" for name in shipped_grids()}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"stn_cli/configs/digits/r.yaml", "stn_cli/datasets/embedded/digits-images-idx3-ubyte.gz"} <= expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_works_far_from_the_repository(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    script = """
import sys
import stn_cli, stn_cli.__main__
from stn_cli.config_files import config_folder
from stn_cli.datasets.digits import load_digits
print(stn_cli.__file__, config_folder(), len(load_digits().train))
sys.argv = ["stn", "config", "show", "digits/r"]
stn_cli.__main__.main()
"""
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, *config = shown.stdout.splitlines()
    installed = tmp_path / "installed" / "stn_cli"
    assert first == f"{installed / '__init__.py'} {installed / 'configs'} 1297"
    assert {"model:", "train:", "  dataset: digits"} <= set(config)
    assert shown.stderr == ""
