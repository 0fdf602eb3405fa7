"""`stn bench`: a line for every model, distortion and precision, measured by what training runs."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

Stn = Callable[..., Any]

SMALL = ("model.parameters=30000", "train.batch_size=8", "--seconds", "0.01")


@pytest.fixture(autouse=True)
def _short_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large products take seconds, and their speed is of no concern here."""
    monkeypatch.setattr("stn_cli.training.speed.SIDES", (64,))
    monkeypatch.setattr("stn_cli.training.speed.PEAK_SECONDS", 0.01)


def test_json_holds_every_combination_in_order_and_the_machine(stn: Stn):
    lists = (["cnn", "st-cnn"], ["R", "RTS"], ["float32", "bf16"])
    options = [
        word
        for name, listed in zip(("models", "distortions", "precisions"), lists, strict=True)
        for word in (f"--{name}", ",".join(listed))
    ]
    answer = stn("bench", *SMALL, *options, "--json")
    assert (answer.code, answer.err) == (0, "")
    report = answer.json
    rows = report["rows"]
    assert [(row["model"], row["distortion"], row["precision"]) for row in rows] == list(product(*lists))
    assert {"torch", "cpu", "threads", "device"} <= report["environment"].keys()
    assert (report["dataset"], report["batch_size"]) == ("digits", 8)
    assert report["peak_gflop_per_second"].keys() == {"float32", "bf16"}
    for row in rows:
        speed, step = row["images_per_second"], row["step_milliseconds"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert speed["median"] == pytest.approx(8 * row["steps_per_second"])
        assert step["median"] == pytest.approx(1000 / row["steps_per_second"])
        reached = row["gflop_per_step"] * row["steps_per_second"]
        assert row["peak_percent"] == pytest.approx(100 * reached / report["peak_gflop_per_second"][row["precision"]])
    # Neither precision nor speed changes what is to be computed.
    assert all(rows[i]["gflop_per_step"] == rows[i + 1]["gflop_per_step"] for i in range(0, 8, 2))


def test_people_are_shown_a_table_and_the_machine_in_words(stn: Stn):
    answer = stn("bench", *SMALL, "--models", "st-fcn, fcn", "--distortions", "r", "--precisions", "float32")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["machine", "peak", "data"]
    assert lines[2] == "data     digits, batches of 8"
    rows = [line.split("│") for line in lines if line.startswith("│")]
    assert [[cell.strip() for cell in row[1:4]] for row in rows] == [
        ["st-fcn affine", "R", "float32"],
        ["fcn", "R", "float32"],
    ]


def test_a_config_is_measured_as_it_is_but_on_the_digits(stn: Stn):
    report = stn("bench", "mnist/rts", *SMALL, "runtime.convolutions=library", "--json").json
    (row,) = report["rows"]
    assert (row["model"], row["transform"], row["distortion"]) == ("st-cnn", "affine", "RTS")
    assert report["dataset"] == "digits"


def test_a_batch_larger_than_the_dataset_is_measured_all_the_same(stn: Stn):
    settings = ("model.parameters=10000", "train.batch_size=1500", "--seconds", "0.01", "--precisions", "float32")
    report = stn("bench", *settings, "--models", "fcn", "--distortions", "none", "--json").json
    assert report["batch_size"] == 1500


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--models", "stcnn"], "st-cnn"),
        (["--distortions", "R,Q"], "distortion.kind=Q"),
        (["--precisions", ""], "runtime.precision="),
        (["model.name=fcn"], "Give it with --models."),
        (["distortion=E"], "Give it with --distortions."),
        (["runtime.precision=bf16"], "Give it with --precisions."),
        (["mnist/r", "mnist/e"], "one config at a time, not mnist/r and mnist/e."),
        (["mnist/x"], "there is no config 'mnist/x'"),
        (["--seconds", "0"], "--seconds"),
        (["--distortions", "volume"], "there is no network for volumes"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_measured(stn: Stn, arguments: list[str], what: str):
    answer = stn("bench", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert all(line.startswith("error: ") for line in answer.err.splitlines())
    assert what in answer.err


def test_a_dataset_that_is_missing_is_an_error_of_data(stn: Stn):
    answer = stn("bench", "--dataset", "mnist", "--offline", "--data-dir", "nowhere")
    assert answer.code == 3
    assert "nowhere" in answer.error
