import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stn_cli.errors import ResourceError, UsageError
from stn_cli.models.build import build_model
from stn_cli.training import course, loop
from stn_cli.training.checkpoint import read_checkpoint, read_newest
from stn_cli.training.data import prepare_data
from stn_cli.training.events import Finished, Started, Trained, Validated
from stn_cli.training.logger import read_metrics
from stn_cli.training.loop import train
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import choose_runtime
from stn_cli.training.step import TrainStep


def test_a_run_is_a_folder_and_a_stream_of_events(runs) -> None:
    events = list(runs.train("model.name=st-cnn", "log.every=3"))
    assert [type(event) for event in events] == [Started, Trained, Validated, Trained, Validated, Finished]
    assert [event.step for event in events if isinstance(event, Trained | Validated)] == [3, 3, 6, 6]
    started, finished = events[0], events[-1]
    run, summary = RunFolder(started.run), finished.summary
    assert sorted(path.name for path in run.path.iterdir()) == [
        *(".lock", "checkpoints", "config.yaml", "env.json", "metrics.jsonl", "summary.json", "tb"),
    ]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [
        *("best.safetensors", "step-000000003.safetensors", "step-000000006.safetensors"),
    ]
    assert (started.step, started.total) == (0, 6)
    assert run.read_summary() == summary
    assert (summary["steps"], summary["seed"], summary["distortion"], summary["n"]) == (6, 0, "R", 500)
    assert summary["parameters"] == started.parameters == pytest.approx(30_000, rel=0.02)
    records = read_metrics(run.metrics)
    assert [(record["step"], record["split"]) for record in records] == [
        *((3, "train"), (3, "validation"), (3, "warp input")),
        *((6, "train"), (6, "validation"), (6, "warp input")),
    ]
    best = min(record["error_percent"] for record in records if record["split"] == "validation")
    assert summary["best_validation_error_percent"] == best == read_checkpoint(run.best).state["best_error"]


def test_a_run_is_its_train_steps_over_its_stream_and_nothing_else(runs) -> None:
    settings = ["model.name=st-cnn", "model.transform=tps", "log.images=4"]
    last, config = read_newest(runs.finished(*settings).checkpoints)[0], runs.config(*settings)
    runtime = choose_runtime(config.runtime)
    data = prepare_data(config, runtime.device)
    network = build_model(config.model, data.spec, config.seed)
    optimiser = Optimiser(network, config.train)
    step = TrainStep(network, optimiser, config.train, 6, runtime)
    for index in range(6):
        step(data.stream.batch(index), index)
    expected = {f"network.{name}": value for name, value in network.state_dict().items()} | optimiser.tensors()
    assert last.tensors.keys() == expected.keys() | {"counts"}
    assert all(torch.equal(last.tensors[name], value) for name, value in expected.items())


def test_what_is_looked_at_changes_nothing(runs) -> None:
    """Evaluations, pictures and readings, more or fewer of them, leave the weights as they are."""
    weights = []
    for overrides in ([], ["log.images=20"], ["log.evaluations=6"], ["log.every=1", "log.evaluations=1"]):
        last = read_newest(runs.finished("model.name=st-cnn", *overrides).checkpoints)[0]
        weights.append({name: value for name, value in last.tensors.items() if name != "counts"})
    for others in weights[1:]:
        assert all(torch.equal(others[name], value) for name, value in weights[0].items())


def test_it_trains_in_a_thread_too(runs) -> None:
    made: list[RunFolder] = []
    thread = threading.Thread(target=lambda: made.append(runs.finished()))
    thread.start()
    thread.join()
    assert runs.result(made[0]) == runs.result(runs.finished())


def test_one_process_at_a_time(runs) -> None:
    stream = runs.train()
    run = runs.begun(stream)
    with pytest.raises(ResourceError, match=f"in use by process {os.getpid()} on"):
        runs.go_on(run)
    assert isinstance(list(stream)[-1], Finished)


def test_overwriting_leaves_nothing_of_the_old_run(runs) -> None:
    config = runs.config("name=a")
    list(train(runs.config("name=a", "model.name=cnn")))
    list(train(config, overwrite=True))
    assert runs.result(RunFolder(Path(config.runs_dir) / "a")) == runs.result(runs.finished())
    assert len(list(Path(config.runs_dir).iterdir())) == 2


def test_nothing_is_made_when_the_data_or_the_model_is_wrong(runs, tmp_path: Path) -> None:
    for override in ("train.batch_size=2000", "distortion.canvas=20", "model.parameters=1000"):
        with pytest.raises(UsageError):
            runs.finished("model.name=st-cnn", override)
    assert list(tmp_path.iterdir()) == []


def test_epochs_are_passes_over_the_training_images(runs) -> None:
    per_epoch = (1297 - 65) // 300
    for epochs, steps in ((1, per_epoch), (2, 2 * per_epoch), (0.6, math.ceil(0.6 * per_epoch)), (0.001, 1)):
        config = runs.config("train.batch_size=300")
        length = config.train.model_copy(update={"epochs": epochs, "iterations": None})
        *_, last = train(config.model_copy(update={"train": length}))
        assert isinstance(last, Finished)
        assert last.summary["steps"] == steps


def test_evaluations_are_spread_evenly_and_the_last_is_at_the_end(runs) -> None:
    for evaluations, steps in ((1, [6]), (2, [3, 6]), (4, [2, 3, 4, 6]), (100, [1, 2, 3, 4, 5, 6])):
        events = runs.train(f"log.evaluations={evaluations}")
        assert [event.step for event in events if isinstance(event, Validated)] == steps


def test_the_clock_runs_in_steps_and_stands_still_in_evaluations(runs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def taking(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any) -> Any:
            nonlocal now
            now += seconds
            return work(*given)

        return slow

    monkeypatch.setattr(course.time, "perf_counter", lambda: now)
    monkeypatch.setattr(TrainStep, "__call__", taking(1.0, TrainStep.__call__))
    for room, name in (
        (course, "evaluate"),
        (course, "write_step"),
        (course, "write_checkpoint"),
        (loop, "write_json"),
    ):
        monkeypatch.setattr(room, name, taking(1000.0, getattr(room, name)))
    *events, last = runs.train()
    assert isinstance(last, Finished)
    assert last.summary["train_seconds"] == 6
    assert last.summary["images_per_second"] == 16
    assert [event.images_per_second for event in events if isinstance(event, Trained)] == [16, 16, 16]
