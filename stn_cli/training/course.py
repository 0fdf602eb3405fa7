"""A training under way: its steps, readings, evaluations and checkpoints."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from stn_cli.config import RunConfig
from stn_cli.errors import CheckpointError, LostRankError, NumericsError
from stn_cli.models.budget import count_parameters, layer_widths
from stn_cli.models.network import Network
from stn_cli.training.checkpoint import (
    Checkpoint,
    load_network,
    read_checkpoint,
    write_checkpoint,
    write_step,
)
from stn_cli.training.clock import StepClock
from stn_cli.training.collapse import WarpStatistics, WarpSums, faults
from stn_cli.training.data import RunData
from stn_cli.training.distributed import ALONE, Ranks
from stn_cli.training.engine import EagerSteps, Engine, choose_engine
from stn_cli.training.evaluation import evaluate
from stn_cli.training.events import Collapsed, Event, Trained, Validated
from stn_cli.training.follow import share_state
from stn_cli.training.interruption import Interruption
from stn_cli.training.logger import RunLogger
from stn_cli.training.optimiser import Optimiser, learning_rate
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.runtime import Runtime
from stn_cli.training.schedule import evaluation_steps, next_look, total_steps
from stn_cli.training.showing import Showing
from stn_cli.training.step import TrainStep
from stn_cli.training.warp_history import record_warps

MOST_ROLL_BACKS = 3  # a transformer that collapses at a thousandth of its rate is beyond help
ROLL_BACK_FACTOR = 0.1  # of its learning rate, each time
WORTH_RECORDING = 100  # steps; to record them takes about as long on a CPU as it saves of so many
SAVE_EVERY = 60.0  # seconds between checkpoints, beside those at evaluations: what a kill can cost


class Training:
    """A network, what it is trained on, and how far it has come: `done` steps of `total`, in `runtime`."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        network: Network,
        run: RunFolder,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        self.total = total_steps(config, data.stream.steps_per_epoch)
        self.done = 0
        self._config = config
        self._data = data
        self._network = network
        self._run = run
        self.runtime = runtime
        self._ranks = ranks
        self._optimiser = Optimiser(network, config.train)
        self._step = TrainStep(network, self._optimiser, config.train, self.total, runtime, ranks)
        self._engine: Engine = EagerSteps(self._step, data.stream)
        self._best_error: float | None = None  # percent, on the validation images
        self._clock = StepClock(runtime.device)
        self._last_reading = (0, 0.0)  # steps and seconds
        self._rolled_back = 0  # times
        self._showing = Showing(config, data, network, runtime, self.total)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it is from another network, or has more steps than this run is to have.
        """
        state = checkpoint.state
        if state["step"] > self.total:
            raise CheckpointError(
                f"{self._run.path} has done {state['step']} steps, more than the {self.total} asked for",
                "Ask for more epochs or iterations.",
            )
        load_network(self._network, checkpoint.part("network."), self._run.checkpoints)
        self._optimiser.load(checkpoint.tensors)
        self._step.counts.copy_(checkpoint.tensors["counts"])
        self.done, self._best_error, self._clock.seconds = state["step"], state["best_error"], state["seconds"]
        self._last_reading = (self.done, self._clock.seconds)
        self._rolled_back = state.get("rolled_back", 0)
        self._optimiser.slow_localisation(ROLL_BACK_FACTOR**self._rolled_back)

    def share(self) -> None:
        """Let every rank begin here."""
        share_state(self._ranks, self.done, self._network, self._optimiser)

    def choose_steps(self) -> Runtime:
        """Choose how the steps that are left are made, and return the runtime with that."""
        left = self.total - self.done
        if left < WORTH_RECORDING and self.runtime.device.type == "cpu" and self._config.runtime.steps == "auto":
            self.runtime = self.runtime.stepwise(f"since {left} are few")
        return self.runtime

    def prepare(self) -> None:
        """Record the steps that are left where they are to be replayed.

        Raises:
            ResourceError: they cannot be recorded.
        """
        self._network.train()
        if self.done < self.total:
            self._engine = choose_engine(self._step, self._data.stream, self.runtime)

    def steps(self, log: RunLogger, interruption: Interruption) -> Iterator[Event]:
        """Train to the end or to the first signal; yield an event per reading and per evaluation.

        Raises:
            NumericsError: loss or gradient became NaN or infinite. The weights are those before it.
            LostRankError: another rank has ended. The weights are those after `done` steps.
        """
        evaluate_at = evaluation_steps(self._config, self.total)
        every, in_order = self._config.log.every, sorted(evaluate_at)
        self._clock.go()
        saved, stop = time.perf_counter(), False
        while self.done < self.total and not stop:
            ahead = next_look(self.done, every, in_order) - self.done
            self.done += self._engine.advance(self.done, ahead)
            if self.done % every == 0 or self.done == self.total:
                yield self._read(log)
            if self.done in evaluate_at:
                with self._clock.stopped():
                    self._refuse_non_finite(int(self._step.skipped))
                    yield from self._evaluate(log)
            # Read once, so that the loop never ends on what was not saved; a signal to any rank stops all at one step.
            stop = self._ranks.largest(interruption.signal or 0) > 0
            if self.done in evaluate_at or stop or time.perf_counter() - saved > SAVE_EVERY:
                with self._clock.stopped():
                    self.save(log)
                saved = time.perf_counter()

    def save(self, log: RunLogger) -> None:
        """Write the checkpoint of this step.

        Raises:
            NumericsError: a step since the last reading was not finite.
        """
        self._refuse_non_finite(int(self._step.skipped))
        write_step(self._run.checkpoints, self.done, self._checkpoint())
        log.settle()

    def summarise(self) -> dict[str, Any]:
        """Evaluate on the test set and return the result of the run."""
        result = evaluate(self._network, self._data.test, len(self._data.classes), self.runtime, self._ranks)
        config = self._config
        return {
            "run": str(self._run.path),
            "dataset": config.data.dataset,
            "distortion": config.distortion.kind,
            "model": config.model.name,
            "transform": config.model.transform,
            "label": config.model.label,
            "recipe": config.train.recipe,
            "seed": config.seed,
            "parameters": count_parameters(self._network),
            "widths": list(layer_widths(self._network.classifier)),
            "steps": self.done,
            "test_error_percent": result.error_percent,
            "test_interval_percent": list(result.interval_percent),
            "test_loss": result.loss,
            "n": result.n,
            "collapsed": list(faults(result.warps)),
            "best_validation_error_percent": self._best_error,
            "images_per_second": self.done * config.train.batch_size / self._clock.seconds,
            "train_seconds": self._clock.seconds,
            "precision": self.runtime.precision,
            "device": str(self.runtime.device),
        }

    def _read(self, log: RunLogger) -> Trained:
        means = self._step.read()
        self._refuse_non_finite(means.skipped or int(not math.isfinite(means.loss)))
        seconds = self._clock.read() - self._last_reading[1]
        steps, self._last_reading = self.done - self._last_reading[0], (self.done, self._clock.seconds)
        speed = steps * self._config.train.batch_size / seconds
        values = {"loss": means.loss, "error_percent": means.error_percent, "gradient_norm": means.gradient_norm}
        rate = learning_rate(self._config.train, self.done - 1, self.total)
        shown = self._showing.reading(self.done)
        log.scalars("train", self.done, values | {"learning_rate": rate}, shown=shown)
        if shown:
            log.view("train", self.done, {"images_per_second": speed})
            log.view("learning_rate", self.done, self._showing.rates(self._optimiser.rates(rate)[1:]))
        return Trained(self.done, means.loss, means.error_percent, speed)

    def _evaluate(self, log: RunLogger) -> Iterator[Validated | Collapsed]:
        data, classes = self._data, self._data.classes
        error, warps, result = None, None, None
        shown = self._showing.evaluation(self.done)
        if data.validation is not None:
            try:
                result = evaluate(self._network, data.validation, len(classes), self.runtime, self._ranks)
            except LostRankError:  # which the next reduction finds again; the checkpoint of this step includes this
                result = evaluate(self._network, data.validation, len(classes), self.runtime)
            error, warps = result.error_percent, result.warps
            outside = {} if result.outside_percent is None else {"outside_percent": result.outside_percent}
            values = {"loss": result.loss, "error_percent": error} | outside
            log.scalars("validation", self.done, values, shown=shown)
            yield Validated(self.done, error)
        if error is None or self._best_error is None or error < self._best_error:
            self._best_error = error
            write_checkpoint(self._run.best, self._checkpoint())
        self._showing.show(log, self.done, result)
        if self._config.log.images:
            record_warps(self._run, self._network, data.test, len(classes), self.runtime, self.done)
        yield from self._watch(log, self._warps_of_a_batch() if warps is None else warps)

    def _warps_of_a_batch(self) -> dict[str, WarpStatistics]:
        """Return what transformers do to the latest training batch, for runs that hold out no images."""
        images = self._data.stream.batch(self.done - 1).images
        sums = WarpSums(self._network, self.runtime.device)
        with torch.no_grad(), self.runtime.autocast():
            sums.add(self._network(images.contiguous(memory_format=self.runtime.memory_format)).warps)
        return sums.statistics(len(images))

    def _watch(self, log: RunLogger, warps: dict[str, WarpStatistics]) -> Iterator[Collapsed]:
        """Log how transformers warp, and tell of those that have run away."""
        for name, warp in warps.items():
            values = {key: float(value) for key, value in asdict(warp).items()}
            log.scalars(f"warp {name}", self.done, values, shown=self._showing.evaluation(self.done))
        found, back_to = faults(warps), None
        if found and self._config.train.roll_back and self._rolled_back < MOST_ROLL_BACKS and self._run.sound.exists():
            back_to = self._roll_back()
        elif not found and warps and self._config.train.roll_back:
            write_checkpoint(self._run.sound, self._checkpoint())
        if found:
            yield Collapsed(self.done, found, back_to)

    def _roll_back(self) -> int:
        """Return to the state of the last sound evaluation, and slow localisation down; return its step."""
        sound = read_checkpoint(self._run.sound)
        load_network(self._network, sound.part("network."), self._run.sound)
        self._optimiser.load(sound.tensors)
        self._optimiser.slow_localisation(ROLL_BACK_FACTOR)
        self._rolled_back += 1
        return int(sound.state["step"])

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        tensors |= self._optimiser.tensors()
        tensors["counts"] = self._step.counts
        state = {
            "step": self.done,
            "best_error": self._best_error,
            "seconds": self._clock.seconds,
            "rolled_back": self._rolled_back,
            "spec": asdict(self._data.spec),
            "classes": list(self._data.classes),
        }
        return Checkpoint(tensors, state)

    def _refuse_non_finite(self, skipped: int) -> None:
        if skipped:
            raise NumericsError(
                f"loss or gradient was not finite in {skipped} of steps {self._last_reading[0] + 1} to {self.done}",
                f"Lower train.learning_rate or set train.clip_norm; the checkpoints in {self._run.path} are sound.",
            )
