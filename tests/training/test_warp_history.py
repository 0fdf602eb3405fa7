"""The history of warps: small, the same after a resume, and never in the way of the training."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stn_cli.config_files import load_config
from stn_cli.config_model import ModelConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.scene import Single
from stn_cli.models.build import InputSpec, build_model
from stn_cli.training import warp_history
from stn_cli.training.look import look_at_images
from stn_cli.training.loop import train
from stn_cli.training.restore import open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import Runtime
from stn_cli.training.warp_history import MOST_IMAGES, history_file, read_history, record_warps

SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.13,), std=(0.3,))
FLOAT32 = Runtime(torch.device("cpu"), "float32", "")
Record = Callable[[RunFolder, int], None]


@pytest.fixture(scope="module")
def record() -> Record:
    """Record the warps of a network whose θ are those of the step, whenever that step is taken."""
    digits = load_digits()
    frozen = FrozenSet(BatchLoader(digits.test, Single(None, digits.shape, digits.classes), FLOAT32.device), 0, "test")
    network = build_model(ModelConfig(name="st-cnn", parameters=30_000), SPEC, 0)
    bias = network.by_place["input"].transformers[0].localisation[-1].bias

    def at(run: RunFolder, step: int) -> None:
        with torch.no_grad():
            bias.copy_(torch.tensor([1, 0, step / 100, 0, 1, 0]))
        record_warps(run, network, frozen, 10, FLOAT32, step)

    return at


def test_records_after_the_one_gone_back_to_are_dropped(record: Record, tmp_path: Path):
    straight, resumed = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    for step in (2, 4, 6, 8):
        record(straight, step)
    for step in (2, 4, 6, 4, 6, 8):
        record(resumed, step)
    assert history_file(straight).read_bytes() == history_file(resumed).read_bytes()
    history = read_history(straight)
    assert history is not None
    assert history.steps == (2, 4, 6, 8)
    assert history.thetas["input"].shape == (4, MOST_IMAGES, 6)
    assert history.thetas["input"][:, 0, 2].tolist() == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert history.images.shape == (MOST_IMAGES, 1, 28, 28)
    assert history.targets.tolist() == list(range(MOST_IMAGES))
    assert history.predicted.shape == (4, MOST_IMAGES)


def test_it_stays_small_and_keeps_the_first_and_the_last(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(warp_history, "MOST_RECORDS", 4)
    run, lengths = RunFolder(tmp_path), []
    for step in range(1, 14):
        record(run, step)
        history = read_history(run)
        assert history is not None
        assert (history.steps[0], history.steps[-1]) == (1, step)
        assert len(history.steps) == len(history.thetas["input"]) == len(history.predicted) <= 4
        lengths.append(len(history.steps))
    assert max(lengths) == 4
    assert history_file(run).stat().st_size < 20_000


def test_a_damaged_one_begins_anew_and_says_so(record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    run = RunFolder(tmp_path)
    record(run, 1)
    content = bytearray(history_file(run).read_bytes())
    content[-1] ^= 1
    history_file(run).write_bytes(content)
    with caplog.at_level(logging.WARNING, "stn"):
        record(run, 2)
    assert "warps.safetensors is damaged" in caplog.text
    assert "begins anew" in caplog.text
    history = read_history(run)
    assert history is not None
    assert history.steps == (2,)


def test_one_that_cannot_be_written_is_a_warning(record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    in_the_way = RunFolder(tmp_path / "file")
    in_the_way.path.write_text("no folder")
    with caplog.at_level(logging.WARNING, "stn"):
        record(in_the_way, 1)
    assert "training goes on without a history of warps" in caplog.text


@pytest.mark.parametrize(("model", "images"), [("st-cnn", 20), ("st-cnn", 0), ("cnn", 20)])
def test_a_training_records_its_evaluations_if_it_has_warps_to_show(tmp_path: Path, model: str, images: int):
    said = ["train.iterations=4", "train.batch_size=8", "model.parameters=30000", "log.evaluations=2"]
    said += ["runtime.precision=float32", "runtime.convolutions=library", f"log.images={images}", f"model.name={model}"]
    list(train(load_config(None, [*said, f"runs_dir={tmp_path}", "name=a"])))
    run = RunFolder(tmp_path / "a")
    history = read_history(run)
    assert (history is not None) == (model == "st-cnn" and images > 0)
    if history is not None:
        trained = open_trained(run, "last", [])
        look = look_at_images(trained.network, history.images / 255, trained.runtime)
        assert history.steps == (2, 4)
        torch.testing.assert_close(history.thetas["input"][-1], look.thetas["input"], atol=2e-3, rtol=0)  # of bytes
        assert (history.thetas["input"][0] - look.thetas["input"]).abs().max() > 0
