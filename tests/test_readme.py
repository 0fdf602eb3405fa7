"""The README is true: its code runs, its files exist, its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from stn_cli.cli.app import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    codes = [part.partition("\n") for part in README.split("```")[1::2]]
    return [code for named, _, code in codes if named == language]


def test_the_library_example_runs() -> None:
    (code,) = [block for block in blocks("python") if "SpatialTransformer" in block]
    scope = {"images": torch.rand(3, 1, 28, 28)}
    exec(code, scope)
    torch.testing.assert_close(scope["output"], scope["images"])  # a new transformer is the identity
    assert scope["theta"].shape == (3, 6)
    assert scope["grid"].shape == (3, 28, 28, 2)


def test_the_example_of_true_maps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks("python") if "true_map" in block]
    monkeypatch.chdir(tmp_path)
    arguments = ["distort-dataset", "RTS", "--limit", "12", "--out", "data/mnist-rts"]
    get_command(app).main(arguments, standalone_mode=False)
    scope: dict[str, torch.Tensor] = {}
    exec(code, scope)
    assert scope["grid"].shape == (12, 42, 42, 2)
    assert scope["originals"].shape == (12, 1, 28, 28)


def test_the_map_names_every_file_and_no_other() -> None:
    (code_map,) = [block for block in blocks("") if block.startswith("stn_cli/\n")]
    named = set(re.findall(r"\b(\w+\.py)\b", code_map))
    real = {path.name for path in (ROOT / "stn_cli").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == real


COMMANDS = [
    shlex.split(line, comments=True) for block in blocks("") for line in block.splitlines() if line.startswith("stn ")
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_shown_parses(words: list[str]) -> None:
    """Parsing alone: names of commands and options exist. What they do is tested with them."""
    group = get_command(app)
    with group.make_context("stn", [], resilient_parsing=True) as context:
        command = group.get_command(context, words[1])
        assert command is not None, words[1]
        command.make_context(words[1], words[2:], parent=context)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9
