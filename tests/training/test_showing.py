"""What of a run its TensorBoard shows: the same however often it was stopped, and never too much."""

from itertools import pairwise
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from stn_cli.training import showing
from stn_cli.training.events import Finished, Interrupted
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.showing import thinned
from stn_cli.training.tags import ABOUT_PICTURES, MEANS

SETTINGS = ("model.name=st-cnn", "log.images=4", "log.evaluations=3")


def board(run: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(run.tensorboard), size_guidance={"images": 0, "tensors": 0, "scalars": 0}).Reload()


def shown(run: RunFolder) -> dict[str, Any]:
    """Return all that a board shows, by tag, but for times and speeds."""
    found, all_of = board(run), dict[str, Any]()
    for tag in found.Tags()["images"]:
        all_of[tag] = [(event.step, event.encoded_image_string) for event in found.Images(tag)]
    for tag in found.Tags()["scalars"]:
        if not tag.startswith("speed/"):
            all_of[tag] = [(event.step, event.value) for event in found.Scalars(tag)]
    for tag in found.Tags()["tensors"]:
        if tag.startswith("theta "):
            all_of[tag] = [(event.step, event.tensor_proto.SerializeToString()) for event in found.Tensors(tag)]
    return all_of


def test_a_run_shows_its_pictures_numbers_and_settings(runs) -> None:
    run = runs.finished(*SETTINGS)
    found = board(run)
    for tag in ABOUT_PICTURES:
        assert [event.step for event in found.Images(tag)] == [2, 4, 6]
    for tag in ("error_percent/validation", "warp input/scale", "warp input/angle_degrees", "warp input/shift"):
        assert [event.step for event in found.Scalars(tag)] == [2, 4, 6]
    for tag in ("loss/training", "learning_rate/classifier", "learning_rate/localisation"):
        assert [event.step for event in found.Scalars(tag)] == [2, 4, 6]
    rates = [found.Scalars(f"learning_rate/{name}")[1].value for name in ("classifier", "localisation")]
    assert rates[1] == pytest.approx(runs.config(*SETTINGS).train.localisation_rate * rates[0])
    assert sum(tag.startswith("theta input/") for tag in found.Tags()["tensors"]) == 6
    summary, hparams = run.read_summary(), found.PluginTagToContent("hparams")
    assert summary is not None
    assert found.Scalars("error_percent/test")[0].value == pytest.approx(summary["test_error_percent"])
    assert parse_session_start_info_plugin_data(hparams["_hparams_/session_start_info"]).group_name == run.path.name
    assert "_hparams_/session_end_info" in hparams
    assert [file.parent for file in run.path.rglob("*tfevents*")] == [run.tensorboard]


def test_a_run_without_transformers_or_held_out_images_shows_what_there_is(runs) -> None:
    plain = shown(runs.finished("model.name=cnn", "log.images=4"))
    assert set(ABOUT_PICTURES) - plain.keys() == {MEANS}
    assert not [tag for tag in plain if tag.startswith(("theta ", "warp ", "learning_rate/localisation"))]
    alone = shown(runs.finished(*SETTINGS, "data.validation=0"))
    assert set(ABOUT_PICTURES) & alone.keys() == {"pictures/1 test images"}


def test_several_learning_rates_are_told_apart_by_their_transformers(runs) -> None:
    transformers = "model.transformers=[{rate: 0.5}, {at: conv1, rate: 0.5}, {at: conv1}]"
    found = shown(runs.finished("model.name=cnn", "model.parameters=100000", "log.images=0", transformers))
    assert sorted(tag for tag in found if tag.startswith("learning_rate/localisation")) == [
        "learning_rate/localisation conv1.1",
        "learning_rate/localisation input, conv1.0",
    ]


def test_a_resumed_run_shows_what_one_that_was_never_stopped_does(runs, stop_after) -> None:
    whole = shown(runs.finished(*SETTINGS))
    stop_after(1, 4)  # before an evaluation, and at one
    stream = runs.train(*SETTINGS)
    run = runs.begun(stream)
    assert isinstance(list(stream)[-1], Interrupted)
    assert isinstance(runs.go_on(run)[-1], Interrupted)
    assert isinstance(runs.go_on(run)[-1], Finished)
    assert shown(run) == whole
    runs.go_on(run)  # it is finished
    assert shown(run) == whole


def test_no_pictures_are_shown_where_none_are_wanted(runs) -> None:
    found = shown(runs.finished("model.name=st-cnn", "log.images=0"))
    assert not set(ABOUT_PICTURES) & found.keys()
    assert "theta input/1 scale x" in found


def test_a_long_run_shows_no_more_than_fits(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "MOST_SHOWN", 3)
    monkeypatch.setattr(showing, "MOST_POINTS", 4)
    monkeypatch.setattr(showing, "PICTURE_BYTES", 36_000)
    found = shown(runs.finished(*SETTINGS[:2], "log.every=1", "log.evaluations=10", "train.iterations=10"))
    pictures = [found[tag] for tag in ABOUT_PICTURES]
    assert all([step for step, _ in events] == [2, 6, 10] for events in pictures)
    assert sum(len(png) for events in pictures for _, png in events) <= 36_000
    assert all(len(events) <= 4 and events[-1][0] == 10 for events in found.values())
    assert [step for step, _ in found["loss/training"]] == [3, 6, 9, 10]


@pytest.mark.parametrize("most", [1, 7, 50])
@pytest.mark.parametrize("count", [1, 6, 7, 8, 100, 1001])
def test_thinned_steps_are_evenly_spaced_with_the_last_among_them(count: int, most: int) -> None:
    steps = list(range(5, 5 + 3 * count, 3))
    kept = sorted(thinned(steps, most))
    assert len(kept) <= most
    assert kept[-1] == steps[-1]
    assert len({b - a for a, b in pairwise(kept)}) <= 1
    assert count > most or kept == steps


def test_the_bounds_hold_less_than_a_disk() -> None:
    assert showing.PICTURE_BYTES == 2**25
    assert showing.PICTURE_BYTES // (len(ABOUT_PICTURES) * showing.MOST_SHOWN) > 150_000  # of each picture
