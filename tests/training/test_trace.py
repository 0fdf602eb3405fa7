"""`stn train --profile`: a trace that opens in Perfetto, and a run that ends as it would have ended."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stn_cli.errors import ResourceError
from stn_cli.training import optimiser
from stn_cli.training.events import Finished, Started
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.trace import STEPS, WARM_UP, Traced, traced

CNN = ("model.name=cnn", "runtime.convolutions=library")


def names(path: Path) -> Counter[str]:
    """Return how often each event stands in a trace."""
    trace = json.loads(gzip.decompress(path.read_bytes()))
    return Counter(event["name"] for event in trace["traceEvents"])


def events_of(stream: Any) -> tuple[RunFolder, list[Any]]:
    events = list(traced(stream))
    assert isinstance(events[0], Started)
    return RunFolder(events[0].run), events


def test_the_trace_holds_ten_steps_after_a_warm_up(runs: Any):
    run, events = events_of(runs.train(*CNN, "train.iterations=40", "log.evaluations=1"))
    paths = [event.path for event in events if isinstance(event, Traced)]
    assert paths == [run.path / "profile" / "trace.json.gz"]
    assert isinstance(events[-1], Finished)
    found = names(paths[0])
    steps = [f"ProfilerStep#{WARM_UP + i}" for i in range(STEPS)]
    assert [name for name in found if name.startswith("ProfilerStep")] == steps
    # Two convolutions a step, and no evaluation among these steps.
    assert found["aten::convolution"] == found["aten::convolution_backward"] == 2 * STEPS
    assert found["update"] == STEPS
    assert list(paths[0].parent.iterdir()) == paths


def test_a_traced_run_ends_with_the_bits_of_another(runs: Any):
    run, _ = events_of(runs.train(*CNN, "train.iterations=12"))
    assert runs.result(run) == runs.result(runs.finished(*CNN, "train.iterations=12"))


@pytest.mark.parametrize("steps", [1, 2, 9, 11])
def test_a_short_run_is_traced_as_far_as_it_goes(runs: Any, steps: int):
    _, events = events_of(runs.train(f"train.iterations={steps}"))
    (path,) = [event.path for event in events if isinstance(event, Traced)]
    assert names(path)["update"] == min(steps, STEPS)


def test_nothing_is_traced_where_nothing_is_left_to_do(runs: Any):
    finished = runs.finished()
    _, events = events_of(iter(runs.go_on(finished)))
    assert not any(isinstance(event, Traced) for event in events)
    assert not (finished.path / "profile").exists()


def test_nothing_is_left_behind_when_nobody_listens_any_more(runs: Any):
    stream = traced(runs.train("train.iterations=40"))
    started = next(stream)
    next(stream)
    stream.close()
    assert optimiser._listeners == []
    assert not (started.run / "profile").exists()


def test_a_trace_that_cannot_be_written_is_an_error(runs: Any):
    stream = traced(runs.train())
    (next(stream).run / "profile").write_text("a file in its place")
    with pytest.raises(ResourceError, match="cannot write"):
        list(stream)
