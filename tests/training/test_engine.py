"""How steps are made is chosen before the first, and a graph is recorded as PyTorch's documentation asks for it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from stn_cli.config import RuntimeConfig
from stn_cli.errors import ResourceError, UsageError
from stn_cli.training import engine, runtime
from stn_cli.training.captured import record_graphs
from stn_cli.training.engine import EagerSteps, choose_engine
from stn_cli.training.recorded import record_operations
from stn_cli.training.runtime import Runtime, choose_runtime
from stn_cli.training.schedule import next_look

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "_has_usable_mps", lambda: True)
    monkeypatch.setattr(runtime, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "the GPU")


@pytest.mark.usefixtures("_gpus")
@pytest.mark.parametrize(
    ("device", "said"), [("cuda", "; steps as CUDA graphs"), ("cpu", "; steps recorded"), ("mps", None)]
)
@pytest.mark.parametrize("steps", ["auto", "captured", "eager"])
def test_steps_are_recorded_where_they_can_be_unless_told_otherwise_and_it_is_said(device: Any, said: Any, steps: Any):
    if said is None and steps == "captured":
        with pytest.raises(UsageError, match=r"captured on cuda and cpu, not on mps. Set runtime.steps=auto"):
            choose_runtime(RuntimeConfig(device=device, steps=steps))
        return
    chosen = choose_runtime(RuntimeConfig(device=device, steps=steps))
    assert chosen.captured == (said is not None and steps != "eager")
    assert chosen.captured == ("; steps" in chosen.reason)
    assert not chosen.captured or chosen.reason.endswith(said)


@pytest.mark.usefixtures("_gpus")
def test_where_each_step_has_to_be_made_by_itself_it_is_said_why():
    chosen = choose_runtime(RuntimeConfig(device="cuda", precision="bf16")).stepwise("to be looked at")
    assert chosen == Runtime(GPU, "bf16", "cuda as asked; bf16 as asked; steps one by one to be looked at")
    assert chosen.stepwise("twice") == chosen


def test_the_engine_is_what_the_runtime_says(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    monkeypatch.setattr(engine, "CapturedSteps", lambda *given, **_: made.append(given))
    step: Any = object()
    stream: Any = object()
    assert isinstance(choose_engine(step, stream, Runtime(CPU, "float32", "")), EagerSteps)
    assert made == []
    choose_engine(step, stream, Runtime(GPU, "float32", "", captured=True))
    choose_engine(step, stream, Runtime(CPU, "float32", "", captured=True))
    assert made == [(step, stream), (step, stream, record_operations)]


@pytest.mark.parametrize("every", [1, 3, 7, 100])
@pytest.mark.parametrize("evaluate_at", [[23], [1, 2, 3, 23], [7, 14, 23]])
def test_nothing_that_is_looked_at_lies_between(every: int, evaluate_at: list[int]):
    for done in range(23):
        looks = {step for step in range(done + 1, 24) if step % every == 0 or step in evaluate_at}
        assert next_look(done, every, evaluate_at) == min(looks)


class Cuda:
    """Notes what PyTorch is asked to do on a GPU that is not there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.fault: Exception | None = None  # of ending a recording
        signature, note, cuda = inspect.signature(torch.cuda.graph.__init__), self.asked.append, self
        self.default, self.current = (Stream(name, note) for name in ("default", "default"))

        class Graph:
            def __init__(self) -> None:
                self.name = f"graph {sum(asked.startswith('made graph') for asked in cuda.asked)}"
                note(f"made {self.name}")

            def register_generator_state(self, generator: str) -> None:
                note(f"{generator} registered")

            def replay(self) -> None:
                note(f"replayed {self.name}")

        @contextmanager
        def graph(*given: Any, **named: Any) -> Iterator[None]:
            asked = signature.bind(None, *given, **named).arguments
            note(f"recording {asked['cuda_graph'].name} in {asked['pool']} on {asked['stream'].name}")
            assert asked["capture_error_mode"] == "thread_local"
            try:
                yield
            finally:
                if cuda.fault is not None:
                    raise cuda.fault
            note("recorded")

        @contextmanager
        def stream(used: Stream) -> Iterator[None]:
            note(f"on {used.name}:")
            yield

        for name, stand_in in {
            "CUDAGraph": Graph,
            "graph": graph,
            "stream": stream,
            "Stream": lambda: Stream("side", note),
            "current_stream": lambda: self.current,
            "default_stream": lambda: self.default,
            "graph_pool_handle": lambda: "one pool",
        }.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, stand_in)


class Stream:
    def __init__(self, name: str, note: Any) -> None:
        self.name, self._note = name, note

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def wait_stream(self, other: "Stream") -> None:
        self._note(f"{self.name} waits for {other.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def record(cuda: Cuda) -> list[Any]:
    generator: Any = "generator"
    return record_graphs([lambda: cuda.asked.append("many"), lambda: cuda.asked.append("one")], generator)


def test_work_is_done_once_on_a_side_stream_and_then_recorded_there(cuda: Cuda):
    replays = record(cuda)
    expected: list[str] = []
    for i, work in enumerate(("many", "one")):
        expected += ["side waits for default", "on side:", work, "default waits for side", f"made graph {i}"]
        expected += ["generator registered", f"recording graph {i} in one pool on side", work, "recorded"]
    assert cuda.asked == expected
    cuda.asked.clear()
    for replay in (*replays, replays[0]):
        replay()
    assert cuda.asked == ["replayed graph 0", "replayed graph 1", "replayed graph 0"]


def test_a_stream_of_the_runs_own_serves_for_the_recording_too(cuda: Cuda):
    cuda.current = Stream("own", cuda.asked.append)
    record(cuda)
    assert "recording graph 0 in one pool on own" in cuda.asked
    assert not any("side" in asked for asked in cuda.asked)


def test_what_cannot_be_recorded_is_an_error_that_names_the_cause(cuda: Cuda):
    cuda.fault = RuntimeError("the recording is invalid")

    def work() -> None:
        if any(asked.startswith("recording") for asked in cuda.asked):
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with pytest.raises(ResourceError) as caught:
        record_graphs([work], "generator")  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == (
        "the training steps cannot be recorded as a CUDA graph (operation not permitted). Set runtime.steps=eager."
    )
    cuda.fault, cuda.asked[:] = None, []
    record(cuda)  # the lock is free again


def test_where_memory_runs_out_while_recording_that_is_said(cuda: Cuda):
    cuda.fault = RuntimeError("the recording is invalid")

    def work() -> None:
        if any(asked.startswith("recording") for asked in cuda.asked):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        record_graphs([work], "generator")  # pyright: ignore[reportArgumentType]
