"""`stn --help` and the help of every command: complete, true, and there at once."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main

from stn_cli import __version__
from stn_cli.cli.app import app
from stn_cli.config_files import shipped_configs

ROOT: Any = typer.main.get_command(app)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = list(commands(ROOT))
WITHOUT_TORCH = [[*path, "--help"] for path in COMMANDS] + [
    ["--version"],
    ["list", "configs"],
    ["config", "show", "digits/r"],
    ["config", "check", "digits/r"],
    ["config", "schema"],
    ["trian"],
    ["train", "--model", "stcnn"],
    ["train", "--epohcs", "3"],
]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_says_what_the_command_is_for_and_shows_examples(stn: Callable[..., Any], path: tuple[str, ...]):
    answer = stn(*path, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"Usage: {' '.join(('stn', *path))} ")
    assert answer.out == stn(*path, "-h").out
    assert re.search(rf"^ .*stn {' '.join(path)}", answer.out, re.MULTILINE)
    assert "\x1b" not in answer.out


def examples() -> Iterator[str]:
    for path in COMMANDS:
        command = ROOT
        for name in path:
            command = command.commands[name]
        text = f"{command.help} {command.epilog or ''}"
        yield from re.findall(r"^ +(stn .*)$", text, re.MULTILINE)
        yield from re.findall(r"`(stn .*?)`", text)


@pytest.mark.parametrize("example", sorted(set(examples())))
def test_every_example_is_a_sound_command(example: str):
    words = shlex.split(example.partition(">")[0])[1:]
    command, context = ROOT, None
    while hasattr(command, "commands"):
        command, context = command.commands[words[0]], command.make_context("stn", [], context, resilient_parsing=True)
        words = words[1:]
    command.make_context(command.name, words, context)
    named = [word for word in words if "/" in word and not word.startswith(("runs/", "data/"))]
    assert set(named) <= set(shipped_configs())


def test_neither_help_nor_a_usage_error_waits_for_torch():
    script = f"""
import contextlib, io, json, sys
from stn_cli.__main__ import main
for arguments in json.loads({json.dumps(WITHOUT_TORCH)!r}):
    sys.argv = ["stn", *arguments]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), \\
            contextlib.redirect_stderr(io.StringIO()):
        main()
    heavy = {{"torch", "torchvision", "tensorboard", "PIL"}} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_python_m_stn_cli_is_the_same_command(start: Callable[..., Any]):
    out, err = start("--help").communicate()
    assert err == ""
    assert out.startswith("Usage: stn [OPTIONS] COMMAND")
    assert all(name in out for name in ROOT.commands)


def test_the_version_is_printed(stn: Callable[..., Any]):
    answer = stn("--version")
    assert (answer.code, answer.out, answer.err) == (0, f"stn {__version__}\n", "")


@pytest.mark.parametrize("group", [(), ("config",)], ids=["stn", "stn config"])
def test_a_group_alone_shows_its_help_and_is_a_usage_error(stn: Callable[..., Any], group: tuple[str, ...]):
    answer = stn(*group)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == stn(*group, "--help").out
