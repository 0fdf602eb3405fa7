"""The pictures of a run: what is drawn, as files and on its TensorBoard."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from stn_cli.config_files import load_config
from stn_cli.datasets.loader import FrozenSet
from stn_cli.errors import ResourceError
from stn_cli.training.events import Finished
from stn_cli.training.loop import train
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize import board
from stn_cli.visualize.board import draw_warps, write_warps

MODELS = {
    "st-cnn": ["model.name=st-cnn"],
    "cnn": ["model.name=cnn"],
    "several": ["model.name=fcn", "model.parameters=60000", "model.transformers=[{}, {transform: tps}]"],
}


def of_all(trained: TrainedRun) -> list[str]:
    """Return the names of the pictures that are made of all test images."""
    return ["worst", *(["means"] if trained.network.places else []), "confusion"]


@pytest.fixture(scope="module", params=MODELS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    settings = ["train.iterations=2", "train.batch_size=8", "model.parameters=20000", "log.evaluations=1"]
    runs = tmp_path_factory.mktemp("runs")
    said = [f"runs_dir={runs}", "runtime.precision=float32", "log.images=0", *settings, *MODELS[request.param]]
    finished = list(train(load_config(None, said)))[-1]
    assert isinstance(finished, Finished)
    return open_trained(RunFolder(Path(finished.summary["run"])), "last", [])


def test_the_overview_has_two_images_of_every_class_and_the_others_what_was_asked_for(
    trained: TrainedRun, monkeypatch: pytest.MonkeyPatch
):
    drawn: list[list[int]] = []

    def draw(_network: Any, frozen: FrozenSet, index: Tensor, *_: Any) -> Image.Image:
        drawn.append(frozen.targets[index].tolist())
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(board, "warp_picture", draw)
    names = [name for name, *_ in draw_warps(trained, 3)]
    assert names == ["overview", *(f"class-{digit}" for digit in range(10)), *of_all(trained)]
    assert drawn == [[digit for digit in range(10) for _ in "ab"], *([digit] * 3 for digit in range(10))]


def test_the_same_run_gives_the_same_pictures(trained: TrainedRun):
    first, second = ({name: picture for name, picture, _ in draw_warps(trained, 2)} for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert len({picture.tobytes() for picture in first.values()}) == len(first)


def test_files_and_board_show_the_same(trained: TrainedRun):
    list(write_warps(trained, 1))  # of which nothing is to stay
    files = list(write_warps(trained, 2))
    assert [file.parent for file in files] == [trained.run.plots] * (11 + len(of_all(trained)))
    shown_on_board = EventAccumulator(str(trained.run.tensorboard)).Reload()
    for file in files:
        name = file.stem.removeprefix("warps-R-")
        (event,) = shown_on_board.Images(f"warps under R/{name}")
        assert event.step == trained.step == 2
        with Image.open(file) as saved, Image.open(io.BytesIO(event.encoded_image_string)) as shown:
            assert np.array_equal(np.asarray(saved.convert("RGB")), np.asarray(shown.convert("RGB")))


def test_a_folder_that_cannot_be_written_is_a_resource_error(trained: TrainedRun, tmp_path: Path):
    (tmp_path / "plots").write_text("in the way")
    elsewhere = TrainedRun(**vars(trained) | {"run": RunFolder(tmp_path)})
    with pytest.raises(ResourceError, match=r"plots/warps-R-overview\.png"):
        list(write_warps(elsewhere, 1))


def test_a_board_that_cannot_be_written_is_a_resource_error(trained: TrainedRun, tmp_path: Path):
    (tmp_path / "tb").write_text("in the way")
    elsewhere = TrainedRun(**vars(trained) | {"run": RunFolder(tmp_path)})
    with pytest.raises(ResourceError, match=r"cannot write .*tb: "):
        list(write_warps(elsewhere, 1))
