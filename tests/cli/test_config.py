"""`stn config`: show, check, schema; and the configs that are shipped."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.config import RunConfig
from stn_cli.config_files import find_config, load_config, shipped_configs

Stn = Callable[..., Any]


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_and_opens_with_its_command(name: str):
    assert load_config(name).train.batch_size
    lines = find_config(name).read_text(encoding="utf-8").splitlines()
    head = itertools.takewhile(lambda line: line.startswith("#"), lines)
    assert any(f"stn train {name}" in line for line in head)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["digits/r"],
        ["mnist/rts", "train.recipe=paper", "model.name=cnn"],
        ["mnist/e", "distortion.control_point_sigma=3", "runtime.threads=2", "name=x = é 007"],
    ],
)
def test_what_is_shown_is_read_back_to_the_same(stn: Stn, arguments: list[str]):
    shown = stn("config", "show", *arguments)
    assert (shown.code, shown.err) == (0, "")
    Path("c.yaml").write_text(shown.out, encoding="utf-8")
    assert stn("config", "show", "c.yaml").out == shown.out
    values = stn("config", "show", *arguments, "--json").json
    assert values == stn("config", "show", "c.yaml", "--json").json
    assert RunConfig.model_validate(values) == load_config("c.yaml")
    assert stn("config", "check", "c.yaml").out == "c.yaml: ok\n"


@pytest.mark.parametrize("value", ["a=b", "a b", " é走", "007", "1e-3", "null ", "#x", "yes"])
def test_a_value_is_kept_exactly(stn: Stn, value: str):
    assert stn("config", "show", f"name={value}", "--json").json["name"] == value
    shown = stn("config", "show", f"name={value}")
    Path("c.yaml").write_text(shown.out, encoding="utf-8")
    assert load_config("c.yaml").name == value
    assert stn("config", "show", f"name={value}", encoding="ascii").code == 0


def test_all_problems_of_all_files_are_listed_with_file_and_line(stn: Stn):
    Path("a.yaml").write_text("seeed: 1\ntrain:\n  epohcs: 3\n")
    Path("b.yaml").write_text("model:\n\tname: cnn\n")
    answer = stn("config", "check", "a.yaml", "digits/r", "b.yaml", "digits/q")
    assert (answer.code, answer.out) == (2, "digits/r: ok\n")
    lines = answer.err.splitlines()
    assert sorted(line.split(": ")[1] for line in lines[:3]) == ["a.yaml:1", "a.yaml:3", "b.yaml:2"]
    assert lines[3].startswith("error: there is no config 'digits/q', neither a file nor a shipped one. ")
    problems = stn("config", "check", "a.yaml", "digits/r", "b.yaml", "digits/q", "--json")
    assert problems.code == 2
    assert problems.err == answer.err
    assert [f"error: {problem}" for problem in problems.json["problems"]] == lines
    assert stn("config", "check", "digits/r", "--json").json == {"configs": ["digits/r"], "problems": []}


def test_the_schema_names_every_setting(stn: Stn):
    schema = json.loads(stn("config", "schema").out)
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    shown = stn("config", "show", "--json").json
    for section, values in shown.items():
        if isinstance(values, dict) and section != "distortion":
            part = schema["$defs"][schema["properties"][section]["$ref"].rpartition("/")[2]]
            assert set(part["properties"]) == set(values)
