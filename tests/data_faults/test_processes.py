"""Processes that are killed at any write, or that share a folder, leave no half files and the same bytes as one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import stn_cli
from stn_cli.datasets import mnist
from tests.data_faults.conftest import NAMES, RAW, Stn, contents

# Runs `stn` in other processes, group by group until one is not killed, and prints their exit codes. They are forked,
# since importing torch takes two seconds. A process pauses before each of its writes to the disk, the next of a group
# for longer, and dies at the nth.
PROCESSES = """
import json, os, signal, sys, time
import stn_cli.cli.app, stn_cli.config_files, stn_cli.datasets.build
from stn_cli.__main__ import main
from stn_cli.datasets import mnist

WRITES = ("mkdir", "BufferedWriter.write", "FileIO.write", "fsync", "replace", "unlink")

def begin(nth, arguments, pause):
    if process := os.fork():
        return process
    seen = 0
    def watch(frame, event, function):
        nonlocal seen
        if event == "c_call" and function.__qualname__ in WRITES:
            seen += 1
            time.sleep(pause)
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["stn", *arguments]
    sys.setprofile(watch)
    try:
        main()
    except SystemExit as end:
        os._exit(end.code)

def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

for line in sys.stdin:
    plan, codes = json.loads(line), []
    os.chdir(plan["folder"])
    mnist.FILES, mnist.MIRRORS = plan["files"], plan["mirrors"]
    for group in plan["groups"]:
        codes += [end(process) for process in [begin(*run, plan["pause"] * k) for k, run in enumerate(group, 1)]]
        if codes[-1] != -signal.SIGKILL:
            break
    print(json.dumps(codes), flush=True)
"""
Processes = Callable[..., list[int]]


@pytest.fixture(scope="module")
def server() -> Iterator["subprocess.Popen[str]"]:
    environment = os.environ | {"PYTHONPATH": str(Path(stn_cli.__file__).parents[1]), "no_proxy": "*"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROCESSES], **pipes, env=environment) as process:
        yield process


@pytest.fixture
def processes(server: Any) -> Processes:
    """Run `stn` in other processes, group by group until one is not killed, and return their exit codes.

    A group runs at once; each: (the write before which it is killed, 0 for none; arguments). `pause`: seconds before
    each write of the first, twice as many for the second, and so on.
    """

    def run(*groups: list[tuple[int, list[str]]], pause: float = 0) -> list[int]:
        plan = {"groups": groups, "pause": pause, "files": mnist.FILES, "mirrors": mnist.MIRRORS, "folder": os.getcwd()}
        print(json.dumps(plan), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    return run


# ---- a download, killed


def test_a_download_that_is_killed_leaves_no_half_file_and_the_next_run_ends_well(
    stn: Stn, processes: Processes, sent: dict[str, bytes]
):
    options = {nth: ["R", "--dataset", "mnist", "--data-dir", f"{nth}", "--out", f"{nth}/out"] for nth in range(6, 14)}
    codes = processes(*([(nth, ["distort-dataset", *given])] for nth, given in options.items()))
    assert codes == [-9] * 8
    partial_files = 0
    for nth, given in options.items():
        there = contents(Path(f"{nth}"))
        partial_files += any(name.endswith(".partial") for name in there)
        assert all(name.endswith(".partial") or sha256 in mnist.FILES.values() for name, sha256 in there.items())
        assert stn("distort-dataset", *given).code == 0
        assert contents(Path(f"{nth}/MNIST/raw")) == mnist.FILES
    assert partial_files >= 2


# ---- two or more processes in one folder


def test_processes_that_distort_into_one_folder_at_once_all_end_well(stn: Stn, processes: Processes):
    command = ["distort-dataset", "R", "--seed", "3", "--out"]
    assert stn(*command, "alone").code == 0
    assert processes([(0, [*command, "shared"])] * 4, pause=0.005) == [0] * 4
    assert contents(Path("shared")) == contents(Path("alone"))


def test_of_two_processes_that_distort_differently_into_one_folder_one_is_refused(stn: Stn, processes: Processes):
    commands = [["distort-dataset", "R", "--seed", seed, "--out"] for seed in "34"]
    codes = processes([(0, [*command, "shared"]) for command in commands], pause=0.02)
    assert sorted(codes) == [0, 2]
    assert stn(*commands[codes.index(0)], "alone").code == 0
    assert contents(Path("shared")) == contents(Path("alone"))


def test_two_processes_that_need_the_same_download_both_end_well(
    processes: Processes, mirror: Any, sent: dict[str, bytes]
):
    # The folder is named, since these processes have the environment of the whole suite.
    common = ["distort-dataset", "R", "--dataset", "mnist", "--data-dir", "data", "--out"]
    runs = [(0, [*common, out]) for out in ("a", "b")]
    assert processes(runs, pause=0.02) == [0, 0]
    assert mirror.requests == [f"{name}.gz" for name in NAMES]
    assert contents(RAW) == mnist.FILES
    assert contents(Path("a")) == contents(Path("b"))


# ---- distort-dataset, killed


def test_distorting_that_is_killed_at_a_write_and_run_again_gives_the_same_bytes(stn: Stn, processes: Processes):
    """A folder is complete or says that it is not, and a second run completes it."""
    command = ["distort-dataset", "R", "--seed", "3", "--out"]
    assert stn(*command, "whole").code == 0
    expected, unfinished = contents(Path("whole")), 0
    moments = range(1, 400, 3)
    *killed, last = processes(*([(nth, [*command, f"{nth}"])] for nth in moments))
    assert (set(killed), last) == ({-9}, 0)
    for folder in (Path(f"{nth}") for nth in moments[: len(killed)]):
        if (folder / "manifest.json").exists():
            assert contents(folder).items() >= expected.items()
        elif folder.exists():
            unfinished += 1
            assert stn("train", "--dataset", folder).code == 3
        assert stn(*command, folder).code == 0
        assert contents(folder) == expected
    assert unfinished >= 5
