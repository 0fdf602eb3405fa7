"""`stn train --seeds`: a run per seed, their mean, and what happens when one or all of them stop."""

import json
import re
import signal
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stn_cli.cli.seeds import configs_of, parse_seeds
from stn_cli.errors import UsageError
from stn_cli.experiments.packed import usable_cores
from stn_cli.training.checkpoint import read_newest

pytestmark = pytest.mark.xdist_group("cores")  # which the processes of packed runs claim

Stn = Callable[..., Any]
FEW = ("runtime.convolutions=library", "log.evaluations=2", "log.images=0", "--model", "fcn")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0,1,2", [0, 1, 2]), ("0-4", [0, 1, 2, 3, 4]), ("7, 2-3", [7, 2, 3]), ("5", [5]), ("3-3", [3]), ("007", [7])],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "0,", "a", "-1", "4-0", "0--3", "0-", "1.5", "1e3", "٣", "0;1"])
def test_what_is_no_list_of_seeds_is_refused(text: str):
    with pytest.raises(UsageError, match=re.escape(f"--seeds cannot be {text!r}. Write seeds as 0,1,2 or 0-4.")):
        parse_seeds(text)


@pytest.mark.parametrize(("text", "why"), [("0-2,1", "seed 1 twice"), ("0-9999999999", "more than 1,000 seeds")])
def test_seeds_come_once_and_in_reasonable_number(text: str, why: str):
    with pytest.raises(UsageError, match=why):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--seeds", "0,1", "--seed", "0"], "--seeds begins new runs, one per seed. Leave --seed and --resume out."),
        (["--seeds", "0,1", "--resume", "a"], "--seeds begins new runs, one per seed. Leave --seed and --resume out."),
        (["--seeds", "0,1", "seed=3"], "--seeds and a seed exclude each other. Give one of them."),
        (["--workers", "2"], "--workers is for several runs. Give --seeds too."),
        (["--seeds", "0", "--workers", "0"], "invalid value for '--workers': "),
        (["--seeds", "2147483648"], "seed=2147483648: seed is 2147483648: "),
        (["--seeds", "0,1", "train.epohcs=3"], "train.epohcs=3: unknown setting train.epohcs. "),
        (["--seeds", "0,1", "runtime.threads=2"], "runs side by side have one thread each, not 2. "),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_begins(stn: Stn, arguments: list[str], what: str):
    answer = stn("train", *arguments, "--device", "cpu")
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(f"error: {what}")
    assert not Path("runs").exists()


def test_several_processes_for_one_run_are_refused(stn: Stn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = stn("train", "--seeds", "0,1")
    assert (answer.code, answer.error) == (2, "--seeds trains runs of one process each. Leave torchrun out.")


def test_a_name_is_given_to_every_run_with_its_seed():
    named = configs_of([3, 1], "digits/r", ["name=mine"])
    assert [(config.name, config.seed) for config in named] == [("mine-seed3", 3), ("mine-seed1", 1)]
    assert [config.name for config in configs_of([3, 1], "digits/r", [])] == [None, None]


def test_the_result_is_that_of_each_seed_alone_and_their_mean(stn: Stn, tiny: tuple[str, ...]):
    answer = stn("train", *tiny, *FEW, "--seeds", "3,1", "--json")
    assert answer.code == 0, answer.err
    runs = answer.json["runs"]
    assert [run["seed"] for run in runs] == [3, 1]
    assert [run["run"] for run in runs] == ["runs/digits-r-fcn-seed3", "runs/digits-r-fcn-seed1"]
    errors = [run["test_error_percent"] for run in runs]
    assert errors[0] != errors[1]
    mean, deviation = statistics.fmean(errors), abs(errors[0] - errors[1]) / 2**0.5
    assert answer.json["error_percent"] == {"mean": mean, "sd": pytest.approx(deviation), "n": 2}
    single = stn("train", *tiny, *FEW, "--seed", "1", "runtime.threads=1", "--name", "alone", "--json").json
    timed = ("run", "images_per_second", "train_seconds")
    assert {k: v for k, v in single.items() if k not in timed} == {k: v for k, v in runs[1].items() if k not in timed}
    packed, alone = Path("runs/digits-r-fcn-seed1"), Path("runs/alone")
    assert (packed / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()


def test_a_run_that_fails_leaves_the_others_their_result_and_gives_its_exit_code(
    stn: Stn, tiny: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    """On a terminal, where the bars leave nothing on stdout."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    Path("runs/a-seed1/thesis").mkdir(parents=True)
    answer = stn("train", *tiny, *FEW, "--seeds", "0-2", "--name", "a", "--overwrite", terminal=True)
    assert answer.code == 2
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", answer.err)  # with what was drawn over
    error = "runs/a-seed1 is no run, so it is not overwritten. Choose another --name."
    assert f"seed 1      failed: {error}" in plain
    assert plain.endswith(f"error: {error}\n")
    assert "\x1b[?25l" in answer.err, "no bars were shown"
    number = r"\d+\.\d\d"
    assert re.fullmatch(
        rf"seed 0      {number} %  \(95 % interval {number} to {number}, n 500\)  runs/a-seed0\n"
        rf"seed 2      {number} %  \(95 % interval {number} to {number}, n 500\)  runs/a-seed2\n"
        rf"test error  {number} ± {number} %  \(mean ± standard deviation over 2 seeds\)\n",
        answer.out,
    )


@pytest.mark.skipif(usable_cores() < 2, reason="two runs at once need two cores")
def test_ctrl_c_saves_every_run_says_how_to_go_on_and_leaves_no_process(start: Callable[..., Any], stn: Stn):
    settings = ["--precision", "float32", "train.batch_size=16", "model.parameters=20000", "runtime.threads=1", *FEW]
    process = start("train", *settings, "--iterations", "100000", "--seeds", "0-2", "--workers", "2", "--name", "a b")
    said: list[str] = []
    while sum("runs/a b-seed" in line for line in said) < 2:
        said.append(process.stderr.readline())
        assert said[-1], said
    owners = [int((Path(f"runs/a b-seed{seed}") / ".owner").read_text().split()[1]) for seed in (0, 1)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "seed 2      not begun" in err.splitlines()
    for seed in (0, 1):
        step = read_newest(Path(f"runs/a b-seed{seed}/checkpoints"))[0].state["step"]
        resume = f"stn train --resume 'runs/a b-seed{seed}'"
        assert f"seed {seed}      saved at step {step:,}. Go on with: {resume}" in err.splitlines()
    assert "Traceback" not in err
    assert not any(Path(f"/proc/{owner}").exists() for owner in owners)
    answer = stn("train", "--resume", "a b-seed1", "--iterations", str(step + 5), "--json")
    assert answer.code == 0, answer.err
    assert answer.json["steps"] == step + 5
    assert json.loads(Path("runs/a b-seed1/summary.json").read_text()) == answer.json
