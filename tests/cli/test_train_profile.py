"""`stn train --profile`: where the trace lies is said, and the result stays the same."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Stn = Callable[..., Any]


def test_the_trace_is_named_and_the_result_is_that_of_a_run_without(stn: Stn, tiny: tuple[str, ...]):
    settings = (*tiny, "runtime.convolutions=library", "log.evaluations=1", "--model", "cnn")
    answer = stn("train", *settings, "--name", "a", "--profile", "--json")
    assert answer.code == 0
    path = Path("runs/a/profile/trace.json.gz")
    assert answer.err.count(f"trace       {path}  (to be opened at https://ui.perfetto.dev)\n") == 1
    trace = json.loads(gzip.decompress(path.read_bytes()))
    assert any(event["name"] == "aten::convolution" for event in trace["traceEvents"])
    plain = stn("train", *settings, "--name", "b", "--json").json
    assert all(answer.json[key] == plain[key] for key in ("test_error_percent", "test_loss", "steps", "widths"))
    assert not Path("runs/b/profile").exists()


def test_a_continuation_is_traced_too(stn: Stn, tiny: tuple[str, ...]):
    settings = (*tiny, "log.evaluations=1", "--model", "fcn", "--name", "a")
    assert stn("train", *settings).code == 0
    answer = stn("train", "--resume", "a", "--iterations", "9", "--profile")
    assert answer.code == 0
    assert "trace       runs/a/profile/trace.json.gz" in answer.err


def test_several_runs_are_not_traced(stn: Stn):
    answer = stn("train", "--seeds", "0,1", "--profile")
    assert answer.code == 2
    assert answer.error == "--profile is for a single run. Leave --seeds out."
