import errno
import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data
from tensorboard.summary.writer.record_writer import RecordWriter

from stn_cli.errors import CheckpointError, ResourceError
from stn_cli.training import logger
from stn_cli.training.logger import RunLogger, read_metrics
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.tags import TEST_IMAGES


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def write(run: RunFolder, steps: range, *, resume_step: int = 0, sign: int = 1) -> None:
    with RunLogger(run, resume_step=resume_step) as log:
        for step in steps:
            log.scalars("train", step, {"loss": sign / 3 / step, "error_percent": 100.0})
            log.view("train", step, {"images_per_second": 1e3})
            if step % 2 == 0:
                log.scalars("validation", step, {"error_percent": 50.0 / step})


def board(run: RunFolder) -> EventAccumulator:
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    return events


def test_numbers_come_back_with_all_their_digits(run: RunFolder) -> None:
    write(run, range(1, 4))
    assert read_metrics(run.metrics) == [
        {"step": 1, "split": "train", "loss": 1 / 3, "error_percent": 100.0},
        {"step": 2, "split": "train", "loss": 1 / 3 / 2, "error_percent": 100.0},
        {"step": 2, "split": "validation", "error_percent": 25.0},
        {"step": 3, "split": "train", "loss": 1 / 9, "error_percent": 100.0},
    ]


def test_timings_are_on_the_board_and_no_part_of_the_result(run: RunFolder) -> None:
    write(run, range(1, 3))
    assert "images_per_second" not in run.metrics.read_text()
    assert [event.value for event in board(run).Scalars("speed/images_per_second")] == [1e3, 1e3]
    assert [event.step for event in board(run).Scalars("loss/training")] == [1, 2]


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_what_was_logged_after_the_checkpoint_is_written_once(run: RunFolder, tmp_path: Path, cut: int) -> None:
    """The first process got to step 4 and left a checkpoint of step `cut`; its numbers after that do not count."""
    write(run, range(1, cut + 1))
    write(run, range(cut + 1, 5), resume_step=cut, sign=-1)
    write(run, range(cut + 1, 5), resume_step=cut)
    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    write(whole, range(1, 5))
    assert run.metrics.read_bytes() == whole.metrics.read_bytes()
    found = [(event.step, event.value) for event in board(run).Scalars("loss/training")]
    assert found == [(event.step, event.value) for event in board(whole).Scalars("loss/training")]


@pytest.mark.parametrize("half", [b'{"step": 3, "spl', b"{}", b"\0" * 40, b"\xff"])
def test_a_half_written_last_line_is_left_out(run: RunFolder, half: bytes) -> None:
    write(run, range(1, 3))
    expected = read_metrics(run.metrics)
    run.metrics.write_bytes(run.metrics.read_bytes() + half)
    assert read_metrics(run.metrics) == expected
    write(run, range(3, 4), resume_step=2)
    assert read_metrics(run.metrics)[:-1] == expected


@pytest.mark.parametrize("damage", [b"\0", b"{", b"\xff"])
def test_another_damaged_line_is_named(run: RunFolder, damage: bytes) -> None:
    write(run, range(1, 3))
    first, *rest = run.metrics.read_bytes().split(b"\n")
    run.metrics.write_bytes(b"\n".join([first, damage, *rest]))
    with pytest.raises(CheckpointError, match=r"metrics.jsonl:2 is no JSON\. Remove that line"):
        read_metrics(run.metrics)


def test_without_a_file_there_are_no_metrics(run: RunFolder) -> None:
    assert read_metrics(run.metrics) == []


def test_a_full_disk_stops_the_run_with_one_error(run: RunFolder) -> None:
    """/dev/full refuses every write, as a full disk does; closing the file must not hide the first error."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run.metrics.symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"metrics\.jsonl: No space left"), RunLogger(run) as log:
        log.scalars("train", 1, {"loss": 1.0})


def test_nan_is_no_metric(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="JSON"), RunLogger(run) as log:
        log.scalars("train", 1, {"loss": float("nan")})
    assert read_metrics(run.metrics) == []


def test_everything_reaches_the_board_with_words_about_it(run: RunFolder) -> None:
    picture = Image.new("RGB", (30, 20), "#ff9500")
    run.config.write_text("seed: 0\n")
    run.environment.write_text("{}\n")
    with RunLogger(run) as log:
        log.begin(run, {"model": "st-cnn", "learning_rate": 0.1, "seed": 0})
        log.scalars("warp input", 3, {"scale": 1.0})
        log.picture(TEST_IMAGES, lambda: picture, 3, 10_000)
        log.histograms({"theta input/1 scale": torch.linspace(0, 1, 50)}, 3)
        log.end({"steps": 3, "test_error_percent": 1.5, "test_loss": 0.1})
    found = board(run)
    (event,) = found.Images(TEST_IMAGES)
    assert (event.step, event.width, event.height) == (3, 30, 20)
    assert {"about this board", "config", "environment", "theta input/1 scale"} <= set(found.Tags()["tensors"])
    assert [(event.step, event.value) for event in found.Scalars("error_percent/test")] == [(3, 1.5)]
    for tag in ("warp input/scale", TEST_IMAGES, "theta input/1 scale", "error_percent/test"):
        assert len(found.SummaryMetadata(tag).summary_description) > 20
    hparams = found.PluginTagToContent("hparams")
    start = parse_session_start_info_plugin_data(hparams["_hparams_/session_start_info"])
    assert start.group_name == run.path.name
    assert start.hparams["model"].string_value == "st-cnn"
    assert start.hparams["learning_rate"].number_value == 0.1
    assert "_hparams_/session_end_info" in hparams


def test_what_is_not_shown_is_in_the_metrics_alone(run: RunFolder) -> None:
    with RunLogger(run) as log:
        for step in range(1, 5):
            log.scalars("train", step, {"loss": 1.0}, shown=step % 2 == 0)
    assert [record["step"] for record in read_metrics(run.metrics)] == [1, 2, 3, 4]
    assert [event.step for event in board(run).Scalars("loss/training")] == [2, 4]


def test_a_fault_while_drawing_is_told_once_and_nothing_stops(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Image.Image:
        raise ZeroDivisionError("no pixels")

    with RunLogger(run) as log:
        for step in range(1, 4):
            log.picture(TEST_IMAGES, fail, step, 10_000)
            log.scalars("train", step, {"loss": 1.0})
            log.settle()
    assert len(read_metrics(run.metrics)) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(ZeroDivisionError: no pixels); training goes on" in caplog.text


def test_a_board_that_cannot_be_opened_only_warns(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    run.tensorboard.write_text("a file where the folder should be")
    write(run, range(1, 4))
    assert len(read_metrics(run.metrics)) == 4
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "TensorBoard events cannot be written (File exists)" in caplog.text


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_board_that_cannot_be_written_only_warns(
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    after: int,
) -> None:
    sound, calls = RecordWriter.write, []

    def fail(self: RecordWriter, data: bytes) -> None:
        calls.append(data)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        sound(self, data)

    monkeypatch.setattr(RecordWriter, "write", fail)
    write(run, range(1, 9))
    assert len(read_metrics(run.metrics)) == 12
    assert len(calls) == after + 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "(No space left on device); training goes on" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


def test_a_resume_keeps_every_byte_of_what_it_keeps(run: RunFolder) -> None:
    values = {"loss": 0.1 + 0.2, "gradient_norm": 1e-320, "learning_rate": 5e22, "error_percent": 0.0}
    with RunLogger(run) as log:
        log.scalars("train", 1, values)
    before = run.metrics.read_bytes()
    assert json.loads(before) == {"step": 1, "split": "train", **values}
    logger._drop_after(run.metrics, 1)
    assert run.metrics.read_bytes() == before
