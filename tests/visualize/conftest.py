"""Runs to look at: four steps on the embedded digits."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stn_cli.config_files import load_config
from stn_cli.training.events import Finished
from stn_cli.training.loop import train
from stn_cli.training.run_folder import RunFolder

SETTINGS = (
    *("train.iterations=4", "train.batch_size=8", "model.parameters=40000", "log.evaluations=2", "log.every=1"),
    *("log.images=0", "runtime.device=cpu", "runtime.precision=float32", "runtime.convolutions=library"),
)
MODELS = {
    "st-cnn": "model.name=st-cnn",
    "cnn": "model.name=cnn",
    "parallel": "model.transformers=[[{transform: affine}, {transform: affine}]]",
    "deep": "model.transformers=[{at: input}, {at: conv2}]",
}


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return the finished run of a model by its name here; not to be changed."""
    folder = tmp_path_factory.mktemp("small") / "runs"

    def run_of(name: str) -> RunFolder:
        run = RunFolder(folder / name)
        if not run.path.exists():
            config = load_config(None, [MODELS[name], f"name={name}", f"runs_dir={folder}", *SETTINGS])
            assert isinstance(list(train(config))[-1], Finished)
        return run

    return run_of


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("chromium and chromedriver (Debian's chromium-driver) are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()
