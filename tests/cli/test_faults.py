"""Whatever goes wrong ends as `error: what. fix`, one line per problem, with its exit code; nothing is left behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main

from stn_cli.cli import train as train_command
from stn_cli.cli.app import app
from stn_cli.config_problems import nearest

Stn = Callable[..., Any]
ROOT: Any = typer.main.get_command(app)


def left_behind() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


# ---- usage: 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["trian"], "no such command 'trian'. Did you mean 'train'?"),
        (["config", "shwo"], "no such command 'shwo'. Did you mean 'show'?"),
        (["xyz"], "no such command 'xyz'. See `stn --help`."),
        (["train", "--epohcs", "3"], "no such option: --epohcs. Did you mean --epochs?"),
        (["train", "--xyz"], "no such option: --xyz. See `stn train --help`."),
        (["train", "--seed"], "option '--seed' requires an argument. See `stn "),
        (["eval"], "missing argument 'RUN'. See `stn eval --help`."),
        (["list", "runs", "more"], "got unexpected extra argument"),
        (["visualize", "x", "--per-class", "0"], "invalid value for '--per-class': "),
        (["train", "--epochs", "1", "--iterations", "2"], "--epochs and --iterations are two lengths of one run. Give"),
        (
            ["train", "mnist/r", "mnist/p"],
            "one config at a time, not mnist/r and mnist/p. Write settings as key=value.",
        ),
        (["train", "mnist/q"], "there is no config 'mnist/q', neither a file nor a shipped one. Did you mean mnist/"),
        (["train", "--model", "stcnn"], "model.name=stcnn: model.name has no choice stcnn. Did you mean st-cnn?"),
        (["train", "model=stcnn"], "model=stcnn: model.name has no choice stcnn. Did you mean st-cnn?"),
        (["train", "--transform", "tsp"], "model.transform=tsp: model.transform has no choice tsp. Did you mean tps?"),
        (["train", "train.epohcs=3"], "train.epohcs=3: unknown setting train.epohcs. Did you mean epochs?"),
        (["train", "--seed", "-1"], "seed=-1: seed is -1: input should be greater than or equal to 0. Allowed: from"),
        (["train", "--epochs", "nan"], "train.epochs=nan: train.epochs is nan: input should be "),
        (["train", "train.learning_rate=-1"], "train.learning_rate=-1: train.learning_rate is -1: input should be"),
        (["train", "train.batch_size=0"], "train.batch_size=0: train.batch_size is 0: input should be"),
        (["train", "distortion.rotation=[0,1e9]"], "distortion.rotation=[0,1e9]: distortion.rotation is 1e9: input s"),
        (["train", "train.batch_size=2000"], "a batch of 2000 is larger than the 1232 training images. Set train.bat"),
        (["train", "--name", "../../x"], "'../../x' is no name for a run. Use a plain name without slashes or a lea"),
        (["train", "--name", "/tmp/x"], "'/tmp/x' is no name for a run. Use a plain name without slashes or a lead"),
        (["train", "--name", ".."], "'..' is no name for a run. Use a plain name without slashes or a leading dot."),
    ],
)
def test_a_usage_error_is_one_line_with_a_hint_and_leaves_nothing(stn: Stn, arguments: list[str], error: str):
    answer = stn(*arguments)
    assert answer.code == 2
    assert answer.error.startswith(error)
    assert left_behind() == []


def test_all_problems_of_a_command_line_are_listed_at_once(stn: Stn):
    answer = stn("train", "--model", "cnm", "--seed", "x", "train.epohcs=3", "lgo.every=2", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.err.splitlines()) == 4
    assert all(line.startswith("error: ") for line in answer.err.splitlines())
    assert left_behind() == []


def misspelt() -> Iterator[tuple[str, str, str]]:
    """Yield a command, an option of it with a letter too many, too few or two swapped, and the option."""
    seen: set[str] = set()
    for name, command in ROOT.commands.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        for option in options - seen:
            word = option.removeprefix("--")
            typos = {word[:i] + word[i + 1 :] for i in range(len(word))}
            typos |= {word[:i] + "x" + word[i:] for i in range(len(word) + 1)}
            typos |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
            for typo in sorted(typos - {o.removeprefix("--") for o in options}):
                yield name, f"--{typo}", option
        seen |= options


def test_every_misspelt_option_names_the_right_one(stn: Stn):
    for command, typo, option in misspelt():
        answer = stn(command, typo)
        hinted = answer.error.rpartition("Did you mean ")[2].rstrip("?")
        assert (answer.code, answer.error) == (2, f"no such option: {typo}. Did you mean {hinted}?")
        assert hinted in nearest(typo, [option, hinted])  # --seesd is as near to --seed as to --seeds


# ---- data: 3, checkpoints: 4


def test_missing_data_offline_names_file_place_and_command(stn: Stn):
    Path("empty").mkdir()
    answer = stn("train", "--dataset", "mnist", "--data-dir", "empty", "--offline")
    assert answer.code == 3
    for part in ("train-images-idx3-ubyte", "empty/MNIST/raw", "`stn train --dataset mnist --data-dir empty`"):
        assert part in answer.error
    assert not Path("runs").exists()


@pytest.fixture
def copied(runs: Path) -> Path:
    shutil.copytree(runs / "cnn", "runs/cnn")
    return Path("runs/cnn")


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "empty": lambda _: b"",
    "one bit": lambda content: content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
    "text": lambda _: b"hello\n",
    "pickle": lambda _: b"cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_or_stepped_over_and_nothing_in_it_runs(stn: Stn, copied: Path, damage: str):
    newest = copied / "checkpoints" / "step-000000006.safetensors"
    for file in (newest, copied / "checkpoints" / "best.safetensors"):
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    answer = stn("eval", "cnn", "--checkpoint", "best")
    assert answer.code == 4
    assert "best.safetensors" in answer.error
    answer = stn("train", "--resume", "cnn", "--json")
    assert answer.code == 0
    assert answer.json["steps"] == 6
    (warning,) = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert str(newest) in warning
    assert "going on    after step 3 of 6\n" in answer.err
    assert not Path("pwned").exists()


def test_without_a_sound_checkpoint_the_run_is_said_to_be_lost(stn: Stn, copied: Path):
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints" / "step-000000006.safetensors").mkdir(parents=True)
    for command in (["eval", "cnn"], ["visualize", "cnn"], ["train", "--resume", "cnn"]):
        answer = stn(*command)
        assert answer.code == 4
        assert "runs/cnn/checkpoints" in answer.error


@pytest.mark.parametrize("command", [["eval"], ["visualize"], ["train", "--resume"]], ids=" ".join)
def test_a_run_that_is_not_there_is_said_so(stn: Stn, command: list[str]):
    for name in ("nothing", "../nothing", "a\nb", "é" * 200):
        answer = stn(*command, name)
        assert answer.code == 4
        assert answer.error.startswith("there is no run ")
    assert left_behind() == []


def test_resuming_with_another_network_lists_what_differs(stn: Stn, copied: Path):
    answer = stn("train", "--resume", "cnn", "--model", "fcn", "--seed", "5", "train.momentum=0.5", "--iterations", "9")
    assert answer.code == 4
    assert "(model.name cnn → fcn, seed 0 → 5, train.momentum 0.9 → 0.5)" in answer.error
    answer = stn("eval", "cnn", "model.name=fcn")
    assert answer.code == 2
    assert "model.name=fcn changes nothing here" in answer.error
    answer = stn("eval", "cnn", "--distortion", "RTS")
    assert answer.code == 2
    assert "takes images of 1×28×28, digits under RTS gives 1×42×42" in answer.error
    assert json.loads((copied / "summary.json").read_text())["steps"] == 6


def test_an_unknown_checkpoint_is_a_usage_error(stn: Stn, copied: Path):
    assert (
        stn("eval", "cnn", "--checkpoint", "lats").error == "--checkpoint has no choice 'lats'. Choose from last, best."
    )


# ---- the machine: 6


def test_a_file_in_the_way_of_the_run_is_found_before_training(stn: Stn, tiny: tuple[str, ...]):
    Path("file").write_text("kept")
    for runs_dir in ("file", "file/runs"):
        answer = stn("train", *tiny, "--runs-dir", runs_dir)
        assert answer.code == 6
        assert "file" in answer.error
        assert "--runs-dir" in answer.error
    assert left_behind() == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("command", [["train"], ["eval"], ["visualize"]], ids=" ".join)
def test_a_device_that_is_not_there_is_said_so(stn: Stn, runs: Path, command: list[str]):
    run = [] if command == ["train"] else [runs / "cnn"]
    answer = stn(*command, *run, "--device", "cuda")
    assert answer.code == 6
    assert answer.error.startswith("there is no cuda device here. Choose from ")
    assert left_behind() == []


def test_a_run_in_use_is_not_resumed(stn: Stn, copied: Path):
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", script, copied / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()  # it has the lock
        (copied / ".owner").write_text("process 123 on elsewhere\n")
        answer = stn("train", "--resume", "cnn")
        other.communicate("\n")
    assert answer.code == 6
    assert answer.error == "runs/cnn is in use by process 123 on elsewhere. Wait for it, or stop it."
    assert stn("train", "--resume", "cnn").code == 0  # what the other left behind is no lock


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (MemoryError(), 6, "out of memory: no more to be had. Lower train.batch_size or model.parameters."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nmore"), 6, None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), 6, None),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"), 6, "runs/x: No space left on device. Free some"),
        (
            ZeroDivisionError("two\nlines"),
            1,
            "this is a bug in stn: ZeroDivisionError: two lines. Run again with --debug",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_is_one_line(
    stn: Stn, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, line: str | None
):
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(train_command, "watch", fail)
    answer = stn("train")
    assert answer.code == code
    assert answer.error.startswith(line or "out of memory: ")
    shown = stn("train", "--debug")
    assert shown.code == code
    assert shown.err.startswith("Traceback ")
    assert shown.err.endswith(answer.err)


def test_ctrl_c_at_any_other_time_is_no_error(stn: Stn, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "watch", interrupt)
    assert stn("train").code == 130


# ---- streams


def test_a_reader_that_goes_away_ends_the_command_quietly(start: Callable[..., Any]):
    for arguments in (["list", "configs"], ["list", "models", "--json"], ["config", "schema"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        process = start(*arguments, stdout=write)
        os.close(write)
        process.wait()
        assert process.returncode == 0
        assert process.stderr.read() == ""


def test_streams_that_are_closed_from_the_start_end_no_command():
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = ["sh", "-c", f'"$0" -m stn_cli config show digits/r {closed}', sys.executable]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert bool(done.stdout) == (closed == "2>&-")


def test_colour_is_never_forced_into_json(stn: Stn, monkeypatch: pytest.MonkeyPatch, copied: Path):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for arguments in (["list"], ["eval", copied], ["config", "show"], ["visualize", copied, "--per-class", 1]):
        answer = stn(*arguments, "--json")
        assert answer.code == 0
        assert "\x1b" not in answer.out + answer.err
