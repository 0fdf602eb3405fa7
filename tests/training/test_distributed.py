"""Several processes train one network as one process does, and none outlives another by much."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

import stn_cli
from stn_cli.config import ModelConfig, TrainConfig
from stn_cli.datasets.loader import Batch
from stn_cli.errors import ResourceError, UsageError
from stn_cli.models.build import InputSpec, build_model
from stn_cli.names import RANK_VARIABLES
from stn_cli.training.checkpoint import read_newest
from stn_cli.training.data import prepare_data
from stn_cli.training.distributed import ALONE, Ranks, join
from stn_cli.training.evaluation import evaluate
from stn_cli.training.logger import read_metrics
from stn_cli.training.optimiser import Optimiser, learning_rate
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import Runtime
from stn_cli.training.step import TrainStep

CPU = torch.device("cpu")
STEPS = 60
# 33 does not divide by two, and neither 7 nor 12 divides the steps at which runs are stopped. Networks without a
# transformer: the sampler's gradient jumps from pixel to pixel, so that rounding errors grow a thousandfold at once.
SETTINGS = ("--model", "cnn", "--precision", "float32", "--iterations", STEPS, "runtime.convolutions=library",
            "model.parameters=30000", "train.batch_size=33", "train.learning_rate=0.02", "log.every=7",
            "log.evaluations=5", "log.images=1")  # fmt: skip

# What runs in every process: `stn`, that notes the hash of the weights after each step. `fate`: before which step which
# rank gets which signal, or sleeps.
PROGRAM = """
import hashlib, os, sys, time
os.environ.update(environ)
os.chdir(folder)
for number, name in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"rank{environ['RANK']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
from datetime import timedelta
from stn_cli.__main__ import main
from stn_cli.training import distributed, step
distributed.LIMIT = timedelta(seconds=limit)
plain = step.TrainStep.__call__
def noted(self, batch, index):
    if (int(environ["RANK"]), index) == fate[:2]:
        os.kill(os.getpid(), fate[2]) if fate[2] else time.sleep(60)
    plain(self, batch, index)
    weights = b"".join(value.numpy().tobytes() for value in self._network.state_dict().values())
    notes.write(f"{index + 1} {hashlib.sha256(weights).hexdigest()}\\n")
step.TrainStep.__call__ = noted
sys.argv = ["stn", *arguments]
with open(f"rank{environ['RANK']}.notes", "w", buffering=1) as notes:
    main()
"""
NEVER = (-1, -1, -1)


class Job:
    """The processes of one distributed run, as torchrun would start them, in a folder with what each said."""

    def __init__(
        self, folder: Path, *commands: tuple[object, ...], limit: float = 20, fate: tuple[int, int, int] = NEVER
    ) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        # Imported once for all.
        context.set_forkserver_preload(["stn_cli.training.loop", "stn_cli.cli.train"])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(len(commands))}
        self.processes: list[BaseProcess] = []
        for rank, arguments in enumerate(commands):
            given = {
                "environ": place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                "folder": str(folder),
                "arguments": [str(argument) for argument in arguments],
                "limit": limit,
                "fate": fate,
            }
            self.processes.append(context.Process(target=exec, args=(PROGRAM, given)))
        for process in self.processes:
            process.start()

    def codes(self, within: float = 60) -> list[int | None]:
        """Return the exit codes when all have ended; None for one that has not."""
        return [self.code(rank, within) for rank in range(len(self.processes))]

    def code(self, rank: int, within: float = 60) -> int | None:
        """Return the exit code of a process when it has ended."""
        self.processes[rank].join(within)
        return self.processes[rank].exitcode

    def said(self, rank: int, where: str = "err") -> str:
        """Return what a rank has written to "out", "err" or "notes"."""
        return (self.folder / f"rank{rank}.{where}").read_text()

    def hashes(self, rank: int) -> dict[int, str]:
        """Return the hash of a rank's weights after each step."""
        return {int(line.split()[0]): line.split()[1] for line in self.said(rank, "notes").splitlines()}


Start = Callable[..., Job]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a job that ends with the test; one command is the same for two ranks."""
    jobs: list[Job] = []

    def begin(*commands: tuple[object, ...], **options: Any) -> Job:
        jobs.append(Job(tmp_path, *(commands * 2 if len(commands) == 1 else commands), **options))
        return jobs[-1]

    yield begin
    for process in (process for job in jobs for process in job.processes):
        process.kill()
        process.join()


@dataclass(frozen=True)
class Result:
    """What a finished run has come to."""

    tensors: dict[str, Tensor]
    metrics: list[dict[str, Any]]
    test_error: float

    @classmethod
    def of(cls, folder: Path) -> "Result":
        run = RunFolder(folder)
        checkpoint, passed = read_newest(run.checkpoints)
        assert (checkpoint.state["step"], passed) == (STEPS, [])
        summary = run.read_summary()
        assert summary is not None
        return cls(checkpoint.tensors, read_metrics(run.metrics), summary["test_error_percent"])

    def assert_close(self, other: "Result") -> None:
        """Another number of processes adds in another order."""
        assert [record.keys() for record in self.metrics] == [record.keys() for record in other.metrics]
        for found, expected in zip(self.metrics, other.metrics, strict=True):
            assert (found["step"], found["split"]) == (expected["step"], expected["split"])
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert found["error_percent"] == pytest.approx(expected["error_percent"], abs=0.5)  # one image of 231
        for name, value in self.tensors.items():
            torch.testing.assert_close(value, other.tensors[name], rtol=1e-3, atol=1e-5)
        assert self.test_error == pytest.approx(other.test_error, abs=0.2)  # one image of 500

    def assert_same(self, other: "Result") -> None:
        assert self.metrics == other.metrics
        assert self.test_error == other.test_error
        assert all(torch.equal(value, other.tensors[name]) for name, value in self.tensors.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Result]:
    """A run of two processes that nothing has stopped."""
    job = Job(tmp_path_factory.mktemp("whole"), *[("train", *SETTINGS, "--name", "a", "--json")] * 2)
    assert job.codes() == [0, 0], job.said(0)
    return job, Result.of(job.folder / "runs" / "a")


def test_two_processes_learn_what_one_does_and_hold_the_same_bits(whole: tuple[Job, Result], stn, tmp_path: Path):
    job, together = whole
    assert stn("train", *SETTINGS, "--name", "a", "--runs-dir", tmp_path).code == 0
    alone = Result.of(tmp_path / "a")
    assert alone.metrics[-2]["loss"] < alone.metrics[0]["loss"] / 2
    together.assert_close(alone)
    assert len(job.hashes(0)) == STEPS
    assert job.hashes(0) == job.hashes(1)


def test_a_step_of_two_processes_is_their_shares_added_up_bit_for_bit(start: Start):
    """With a transformer too."""
    job = start(("train", *SETTINGS, "--model", "st-cnn", "--iterations", 12, "--name", "a"))
    assert job.codes() == [0, 0], job.said(0)
    run = RunFolder(job.folder / "runs/a")
    last, config = read_newest(run.checkpoints)[0], run.read_config()
    runtime = Runtime(CPU, "float32", "")
    shares = [prepare_data(config, CPU, ranks=Ranks(rank, 2)) for rank in (0, 1)]
    network = build_model(config.model, shares[0].spec, config.seed)
    optimiser = Optimiser(network, config.train)
    for index in range(12):
        optimiser.set_rates(optimiser.rates(learning_rate(config.train, index, 12)))
        optimiser.zero_grad()
        for batch in (share.stream.batch(index) for share in shares):
            (len(batch.targets) / 33 * cross_entropy(network(batch.images).logits, batch.targets)).backward()
        assert config.train.clip_norm is not None
        torch.nn.utils.clip_grad_norm_(optimiser.by_method[0], config.train.clip_norm)
        optimiser.step()
    for name, value in network.state_dict().items():
        assert torch.equal(last.tensors[f"network.{name}"], value), name
    validated = [record for record in read_metrics(run.metrics) if record["split"] == "validation"][-1]
    frozen = shares[0].validation
    assert frozen is not None
    result = evaluate(network, frozen, 10, runtime)
    assert validated["error_percent"] == result.error_percent
    assert validated["outside_percent"] == pytest.approx(result.outside_percent)
    assert validated["loss"] == pytest.approx(result.loss)


def test_rank_0_alone_writes_and_speaks(whole: tuple[Job, Result]):
    job, result = whole
    assert (job.said(1, "out"), job.said(1)) == ("", "")
    assert json.loads(job.said(0, "out"))["test_error_percent"] == result.test_error
    assert [path.name for path in (job.folder / "runs").iterdir()] == ["a"]
    assert json.loads((job.folder / "runs/a/env.json").read_text())["processes"] == 2


def test_a_signal_to_one_process_stops_all_at_one_step_and_they_go_on_to_the_same_bits(
    whole: tuple[Job, Result], start: Start
):
    job = start(("train", *SETTINGS, "--name", "a"), fate=(1, 32, signal.SIGTERM))
    assert job.codes() == [143, 143]
    assert job.said(0).splitlines()[-1] == "saved at step 33. Go on with: stn train --resume runs/a"
    assert job.said(1) == ""
    assert read_newest(job.folder / "runs/a/checkpoints")[0].state["step"] == 33
    assert max(job.hashes(0)) == max(job.hashes(1)) == 33
    again = start(("train", "--resume", "a"))
    assert again.codes() == [0, 0], again.said(0)
    Result.of(job.folder / "runs/a").assert_same(whole[1])


@pytest.mark.parametrize(("number", "limit"), [(signal.SIGKILL, 20), (0, 4)], ids=["dead", "hung"])
def test_without_one_process_rank_0_saves_the_last_step_and_all_end(
    whole: tuple[Job, Result], start: Start, stn, monkeypatch: pytest.MonkeyPatch, number: int, limit: float
):
    job = start(("train", *SETTINGS, "--name", "a"), limit=limit, fate=(1, 33, number))
    assert job.code(0, within=30) == 6
    assert [line for line in job.said(0).splitlines() if line.startswith("error: ")] == [
        "error: another of the 2 processes of this run has ended or does not answer; runs/a is saved at step 33. "
        "Go on with: stn train --resume runs/a"
    ]
    assert max(job.hashes(0)) == 33
    assert read_newest(job.folder / "runs/a/checkpoints")[0].state["step"] == 33
    assert "Traceback" in (job.folder / "runs/a/crash.log").read_text()
    monkeypatch.chdir(job.folder)
    assert stn("train", "--resume", "a").code == 0  # by one process
    Result.of(job.folder / "runs/a").assert_close(whole[1])


def test_without_rank_0_the_others_end_silently_and_go_on_from_its_last_checkpoint(
    whole: tuple[Job, Result], start: Start
):
    job = start(("train", *SETTINGS, "--name", "a"), fate=(0, 33, signal.SIGKILL))
    assert job.codes(within=30) == [-signal.SIGKILL, 6]
    assert job.said(1) == ""
    again = start(("train", "--resume", "a"))
    assert again.codes() == [0, 0], again.said(0)
    Result.of(job.folder / "runs/a").assert_same(whole[1])


def test_different_settings_are_named_before_anything_is_done(start: Start):
    job = start(("train", *SETTINGS), ("train", *SETTINGS, "seed=1", "train.momentum=0.5"))
    assert job.codes() == [2, 6]
    assert job.said(0) == (
        "error: the processes of this run have different settings (rank 1: seed 0 → 1, rank 1: train.momentum "
        "0.9 → 0.5). Start all of them with the same command and the same files.\n"
    )
    assert job.said(1) == ""
    assert not (job.folder / "runs").exists()


def test_what_stops_rank_0_alone_stops_all(start: Start, tmp_path: Path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    job = start(("train", *SETTINGS))
    assert job.codes() == [6, 6]
    assert job.said(0).startswith("error: cannot write runs/")
    assert job.said(1) == ""


def test_torchrun_starts_it_and_does_not_cut_off_what_rank_0_says(tmp_path: Path):
    """It sends SIGTERM to the processes that are left as soon as it sees one die."""
    given = {"environ": {}, "folder": str(tmp_path), "limit": 20, "fate": (1, 33, signal.SIGKILL)}
    given["arguments"] = ["train", *map(str, SETTINGS), "--name", "a"]
    names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    rank = "import os\nenviron['RANK'] = os.environ['RANK']\n"
    (tmp_path / "program.py").write_text(f"{names}{rank}{PROGRAM}".replace("<Signals.SIGKILL: 9>", "9"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "program.py")]
    environment = os.environ | {"PYTHONPATH": str(Path(stn_cli.__file__).parents[1])}
    ended = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=90, check=False)
    codes = re.findall(r"rank +: (\d).*\n +exitcode +: (-?\d+)", ended.stderr)
    assert sorted(codes) == [("0", "6"), ("1", "-9")], ended.stderr
    said = (tmp_path / "rank0.err").read_text()
    assert "runs/a is saved at step 33. Go on with: stn train --resume runs/a\n" in said
    assert read_newest(tmp_path / "runs/a/checkpoints")[0].state["step"] == 33


SPEC = InputSpec(channels=1, height=28, width=28, classes=10, mean=(0.1,), std=(0.3,))


class Side(Ranks):
    """One of two threads in the place of processes."""

    def __init__(self, rank: int, meeting: threading.Barrier, given: list[list[Tensor]]) -> None:
        super().__init__(rank, 2)
        self._meeting, self._given = meeting, given

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        self._given[self.rank] = [tensor.clone() for tensor in tensors]
        self._meeting.wait()
        for tensor, first, second in zip(tensors, *self._given, strict=True):
            tensor.copy_(first + second)
        self._meeting.wait()


def test_what_is_not_finite_on_one_rank_is_skipped_on_all() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [Batch(torch.rand(n, 1, 28, 28, generator=generator), torch.arange(n)) for n in (3, 4)]
    broken = Batch(batches[1].images.clone().index_fill_(0, torch.tensor(2), float("nan")), batches[1].targets)
    config = TrainConfig.model_validate({"batch_size": 7})
    meeting, given = threading.Barrier(2, timeout=30), [[], []]
    found: dict[int, tuple[list[Tensor], list[float]]] = {}

    def work(rank: int) -> None:
        network = build_model(ModelConfig(name="cnn", parameters=30_000), SPEC, 0)
        optimiser = Optimiser(network, config)
        step = TrainStep(network, optimiser, config, 3, Runtime(CPU, "float32", ""), Side(rank, meeting, given))
        step(batches[rank], 0)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        step(broken if rank else batches[0], 1)
        assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        found[rank] = before, step.counts.tolist()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.keys() == {0, 1}
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert [found[rank][1][4] for rank in (0, 1)] == [1, 1]


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 7), (128, 3), (33, 2), (65_536, 7)])
def test_the_shares_of_a_batch_are_all_of_it_and_almost_equal(n: int, size: int) -> None:
    shares = [range(n)[Ranks(rank, size).rows(n)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 1


def test_a_batch_that_leaves_a_process_without_images_is_refused(small) -> None:
    assert len(prepare_data(small("train.batch_size=3"), CPU, ranks=Ranks(2, 3)).stream.batch(0).targets) == 1
    with pytest.raises(UsageError, match="a batch of 3 cannot be shared among 4 processes"):
        prepare_data(small("train.batch_size=3"), CPU, ranks=Ranks(0, 4))


def test_alone_nothing_is_started_or_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert join(CPU) is ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")  # some clusters set it everywhere
    assert join(CPU) is ALONE
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join(CPU) is ALONE
    tensor = torch.tensor([1.0, -0.0, float("nan")])
    before = tensor.clone()
    ALONE.add_up([tensor])
    ALONE.share([tensor])
    ALONE.wait_for_data()
    ALONE.wait()
    ALONE.outlast_first()
    ALONE.refuse_difference({"a": 1})
    assert tensor.view(torch.int32).equal(before.view(torch.int32))
    assert (ALONE.largest(15), ALONE.is_first, ALONE.rows(5)) == (15, True, slice(0, 5))
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("changed", "device", "kind", "message"),
    [
        (
            {"MASTER_ADDR": "", "LOCAL_RANK": ""},
            "cpu",
            UsageError,
            "the environment, LOCAL_RANK, MASTER_ADDR not",
        ),
        ({"LOCAL_RANK": "first"}, "cpu", UsageError, "is no number"),
        ({"LOCAL_RANK": "2"}, "cuda", ResourceError, "process 3 on this machine has no CUDA device: there are 1"),
        ({}, "mps", ResourceError, "cannot share work on mps"),
    ],
)
def test_what_cannot_be_joined_is_said(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], device: str, kind: type[Exception], message: str
) -> None:
    sound = dict(zip(RANK_VARIABLES, ("0", "3", "0", "127.0.0.1", "29500"), strict=True))
    for name, value in (sound | changed).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(kind, match=message):
        join(torch.device(device))
    assert not dist.is_initialized()
