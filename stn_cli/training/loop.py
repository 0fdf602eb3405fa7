"""Training, from a configuration to a finished run, as a stream of events."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from shlex import quote
from typing import Any

import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress as DownloadProgress
from stn_cli.datasets.loader import first_of_each_class
from stn_cli.errors import CheckpointError, LostRankError, NumericsError
from stn_cli.models.budget import count_parameters, layer_widths
from stn_cli.models.build import build_model
from stn_cli.models.network import Network
from stn_cli.storage import write_json
from stn_cli.training.checkpoint import (
    Checkpoint,
    load_network,
    load_optimiser,
    optimiser_tensors,
    write_checkpoint,
    write_step,
)
from stn_cli.training.data import RunData, prepare_data
from stn_cli.training.distributed import ALONE, Ranks, join
from stn_cli.training.evaluation import evaluate
from stn_cli.training.events import Event, Finished, Interrupted, Started, Trained, Validated
from stn_cli.training.follow import follow, refuse_difference, share_state
from stn_cli.training.interruption import Interruption
from stn_cli.training.logger import RunLogger
from stn_cli.training.optimiser import build_optimiser, learning_rate
from stn_cli.training.pictures import warp_picture
from stn_cli.training.run_folder import RunFolder, create_run, write_environment
from stn_cli.training.runtime import Runtime, choose_runtime
from stn_cli.training.schedule import evaluation_steps, total_steps
from stn_cli.training.step import TrainStep
from stn_cli.training.trial import try_out

SAVE_EVERY = 60.0  # seconds between checkpoints, beside those at evaluations: what a kill can cost


def train(
    config: RunConfig,
    *,
    resume: tuple[RunFolder, Checkpoint] | None = None,
    overwrite: bool = False,
    download: DownloadProgress | None = None,
) -> Iterator[Event]:
    """Train a network as configured and evaluate it on the test set, once, with its last weights.

    `resume`: a run and the checkpoint to go on from; otherwise a new run folder is made.
    Where torchrun has started several processes, all train this one network, and rank 0 alone writes and tells.

    Raises:
        StnError: anything that is wrong with the data, the folder, the checkpoint or the numbers.
        LostRankError: another process has ended. Rank 0 has saved the last step that was finished.
    """
    runtime = choose_runtime(config.runtime)
    ranks = join(runtime.device)
    if not ranks.is_first:
        yield follow(config, runtime, ranks)
        return
    refuse_difference(config, runtime, ranks)
    data = prepare_data(config, runtime.device, download, ranks)
    network = runtime.place(build_model(config.model, data.spec, config.seed))
    if ranks.size == 1:  # several would have to agree on what each measures
        runtime = try_out(config.runtime, runtime, network, data.stream.batch(0))
        network = runtime.place(network)
    chosen = {"precision": runtime.precision, "convolutions": runtime.convolutions}
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update=chosen)})
    if resume is None:
        run, config = create_run(config, overwrite=overwrite)
    else:
        run, config = resume[0], config.model_copy(update={"name": resume[0].path.name})
    training = Training(config, data, network, run, runtime, ranks)
    with run.lock(), Interruption() as interruption:
        if resume is not None:
            training.restore(resume[1])
            run.write_config(config)  # it may have more epochs now, and the next resume has to know
            if training.done < training.total:
                run.summary.unlink(missing_ok=True)
        training.share()
        with RunLogger(run, resume_step=training.done) as log:
            write_environment(run, runtime, ranks.size)
            log.text("config", run.config.read_text(encoding="utf-8"))
            if training.done == 0:
                training.save(log)  # from here on the run can go on, whatever comes; and a full disk shows at once
            yield Started(
                run.path,
                count_parameters(network),
                layer_widths(network.classifier),
                training.done,
                training.total,
                runtime,
            )
            try:
                yield from training.steps(log, interruption)
                signal = ranks.largest(interruption.signal or 0)
            except LostRankError as error:
                training.save(log)
                what = f"{error.what}; {run.path} is saved at step {training.done}"
                raise LostRankError(what, f"Go on with: stn train --resume {quote(str(run.path))}", rank=0) from error
        if signal:
            yield Interrupted(run.path, signal, training.done)
            return
        summary = training.summarise()
        write_json(run.summary, summary)
        yield Finished(summary)


class Training:
    """A network, what it is trained on, and how far it has come: `done` steps of `total`."""

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
        self._runtime = runtime
        self._ranks = ranks
        self._optimiser = build_optimiser(network, config.train)
        self._step = TrainStep(network, self._optimiser, config.train, self.total, runtime, ranks)
        self._best_error: float | None = None  # percent, on the validation images
        self._seconds = 0.0  # spent in steps, over all processes of the run
        self._began = time.perf_counter()
        self._last_reading = (0, 0.0)  # steps and seconds

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
        load_optimiser(self._network, self._optimiser, checkpoint.part("momentum."))
        self._step.counts.copy_(checkpoint.tensors["counts"])
        self.done, self._best_error, self._seconds = state["step"], state["best_error"], state["seconds"]
        self._last_reading = (self.done, self._seconds)

    def share(self) -> None:
        """Let every rank begin here."""
        share_state(self._ranks, self.done, self._network, self._optimiser)

    def steps(self, log: RunLogger, interruption: Interruption) -> Iterator[Event]:
        """Train to the end or to the first signal; yield an event per reading and per evaluation.

        Raises:
            NumericsError: loss or gradient became NaN or infinite. The weights are those before it.
            LostRankError: another rank has ended. The weights are those after `done` steps.
        """
        evaluate_at = evaluation_steps(self._config, self.total)
        self._network.train()
        self._began = saved = time.perf_counter()
        stop = False
        while self.done < self.total and not stop:
            self._step(self._data.stream.batch(self.done), self.done)
            self.done += 1
            if self.done % self._config.log.every == 0 or self.done == self.total:
                yield self._read(log)
            if self.done in evaluate_at:
                with self._off_the_clock():
                    self._refuse_non_finite(int(self._step.skipped))
                    yield from self._evaluate(log)
            # Read once, so that the loop never ends on what was not saved; a signal to any rank stops all at one step.
            stop = self._ranks.largest(interruption.signal or 0) > 0
            if self.done in evaluate_at or stop or time.perf_counter() - saved > SAVE_EVERY:
                with self._off_the_clock():
                    self.save(log)
                saved = time.perf_counter()

    def save(self, log: RunLogger) -> None:
        """Write the checkpoint of this step.

        Raises:
            NumericsError: a step since the last reading was not finite.
        """
        self._refuse_non_finite(int(self._step.skipped))
        write_step(self._run.checkpoints, self.done, self._checkpoint())
        log.flush()

    def summarise(self) -> dict[str, Any]:
        """Evaluate on the test set and return the result of the run."""
        result = evaluate(self._network, self._data.test, len(self._data.classes), self._runtime, self._ranks)
        config = self._config
        return {
            "run": str(self._run.path),
            "dataset": config.data.dataset,
            "distortion": config.distortion.kind,
            "model": config.model.name,
            "transform": config.model.transform,
            "recipe": config.train.recipe,
            "seed": config.seed,
            "parameters": count_parameters(self._network),
            "widths": list(layer_widths(self._network.classifier)),
            "steps": self.done,
            "test_error_percent": result.error_percent,
            "test_interval_percent": list(result.interval_percent),
            "test_loss": result.loss,
            "n": result.n,
            "best_validation_error_percent": self._best_error,
            "images_per_second": self.done * config.train.batch_size / self._seconds,
            "train_seconds": self._seconds,
            "precision": self._runtime.precision,
            "device": str(self._runtime.device),
        }

    def _read(self, log: RunLogger) -> Trained:
        means = self._step.read()
        self._refuse_non_finite(means.skipped or int(not math.isfinite(means.loss)))
        self._tick()
        steps, seconds = self.done - self._last_reading[0], self._seconds - self._last_reading[1]
        self._last_reading = (self.done, self._seconds)
        speed = steps * self._config.train.batch_size / seconds
        values = {"loss": means.loss, "error_percent": means.error_percent, "gradient_norm": means.gradient_norm}
        rate = learning_rate(self._config.train, self.done - 1, self.total)
        log.scalars("train", self.done, values | {"learning_rate": rate})
        log.view("train", self.done, {"images_per_second": speed})
        return Trained(self.done, means.loss, means.error_percent, speed)

    def _evaluate(self, log: RunLogger) -> Iterator[Validated]:
        data, classes = self._data, self._data.classes
        error = None
        if data.validation is not None:
            try:
                result = evaluate(self._network, data.validation, len(classes), self._runtime, self._ranks)
            except LostRankError:  # which the next reduction finds again; the checkpoint of this step includes this
                result = evaluate(self._network, data.validation, len(classes), self._runtime)
            error = result.error_percent
            outside = {} if result.outside_percent is None else {"outside_percent": result.outside_percent}
            log.scalars("validation", self.done, {"loss": result.loss, "error_percent": error} | outside)
            yield Validated(self.done, error)
        if error is None or self._best_error is None or error < self._best_error:
            self._best_error = error
            write_checkpoint(self._run.best, self._checkpoint())
        if self._config.log.images:
            index = first_of_each_class(data.test.targets, len(classes), self._config.log.images)
            picture = warp_picture(self._network, data.test, index, classes, self._runtime)
            log.picture("test images", picture, self.done)

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        momentum = optimiser_tensors(self._network, self._optimiser)
        tensors |= {f"momentum.{name}": value for name, value in momentum.items()}
        tensors["counts"] = self._step.counts
        state = {
            "step": self.done,
            "best_error": self._best_error,
            "seconds": self._seconds,
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

    def _tick(self) -> None:
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize(self._runtime.device)  # or steps still in the queue would count as something else
        now = time.perf_counter()
        self._seconds += now - self._began
        self._began = now

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        self._tick()
        yield
        self._began = time.perf_counter()
