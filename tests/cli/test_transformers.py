"""Several transformers on the command line: from one setting to a trained run, its evaluation and its pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Stn = Callable[..., Any]

SEVERAL = (
    "model.transformers=[[{at: input, transform: affine}, {transform: tps}], {at: conv2, localisation: {widths: [8]}}]"
)


def test_from_a_setting_to_pictures(stn: Stn, tiny: tuple[str, ...]):
    trained = stn("train", *tiny, "model.parameters=120000", "log.evaluations=1", SEVERAL, "--json")
    assert trained.code == 0, trained.err
    run = trained.json["run"]
    assert run == "runs/digits-r-cnn-affine+tps-affine@conv2-seed0"
    assert [len(item) for item in yaml.safe_load(Path(run, "config.yaml").read_text())["model"]["transformers"]] == [
        2,
        7,
    ]
    found = stn("eval", run, "--json").json
    assert found["error_percent"] == trained.json["test_error_percent"]
    assert list(found["outside_percents"]) == ["input.0", "input.1", "conv2"]
    assert found["outside_percent"] == max(found["outside_percents"].values())
    assert stn("eval", run).out.count("outside  ") == 3
    assert stn("visualize", run, "--per-class", 1).code == 0
    longer = stn("train", "--resume", run, "--iterations", 8, "--json")
    assert (longer.code, longer.json["steps"]) == (0, 8)


def test_the_long_form_of_one_transformer_trains_to_the_same_bits(stn: Stn, tiny: tuple[str, ...]):
    short = stn("train", *tiny, "--model", "st-cnn", "--transform", "tps", "--json").json
    long = stn("train", *tiny, "model.transformers=[{at: input, transform: tps}]", "--json").json
    assert short["run"] != long["run"]
    assert short["test_loss"] == long["test_loss"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (["model.transformers=[{at: conv3}]"], "has no choice conv3. Did you mean conv1 or conv2?"),
        (["--model", "st-cnn", "model.transformers=[{}]"], "st-cnn has one transformer already"),
        (["--model", "fcn", "model.transformers=[{at: conv1}]"], "the fcn has no conv1"),
        (["model.transformers=[[{}, {at: conv2}]]"], "transformers in parallel stand at one place"),
        (["model.transformers=[{at: conv2, out_size: [5, 5]}]"], "maps of 5×5 pixels are too small for conv2"),
        (["model.transformers=[{}, {}]", "model.parameters=1000"], "the narrowest cnn-affine-affine"),
        (["model.transformers=[{}", "seed=1"], "Indent with spaces"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_made(stn: Stn, settings: list[str], fault: str):
    answer = stn("train", *settings)
    assert answer.code == 2
    assert fault in answer.error
    assert not Path("runs").exists()
