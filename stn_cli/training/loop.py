"""Training, from a configuration to a finished run, as a stream of events."""

from collections.abc import Iterator
from contextlib import nullcontext
from shlex import quote

from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress as DownloadProgress
from stn_cli.errors import LostRankError, UsageError
from stn_cli.models.budget import count_parameters, layer_widths
from stn_cli.models.build import build_model
from stn_cli.storage import write_json
from stn_cli.training.checkpoint import Checkpoint
from stn_cli.training.course import Training
from stn_cli.training.data import prepare_data
from stn_cli.training.distributed import join
from stn_cli.training.events import Event, Finished, Interrupted, Started
from stn_cli.training.follow import follow, refuse_difference
from stn_cli.training.interruption import Interruption
from stn_cli.training.logger import RunLogger
from stn_cli.training.run_folder import RunFolder, create_run, write_environment
from stn_cli.training.runtime import Runtime, choose_runtime
from stn_cli.training.showing import settings_of
from stn_cli.training.trial import try_out


def train(
    config: RunConfig,
    *,
    resume: tuple[RunFolder, Checkpoint] | None = None,
    overwrite: bool = False,
    download: DownloadProgress | None = None,
    signals: Interruption | None = None,
    stepwise: bool = False,
) -> Iterator[Event]:
    """Train a network as configured and evaluate it on the test set, once, with its last weights.

    `resume`: a run and the checkpoint to go on from; otherwise a new run folder is made. `signals`: what notes
    signals, where that is not this run's own affair. `stepwise`: whether each step is to be made by itself, as a trace
    of it needs.
    Where torchrun has started several processes, all train this one network, and rank 0 alone writes and tells.

    Raises:
        StnError: anything that is wrong with the data, the folder, the checkpoint or the numbers.
        LostRankError: another process has ended. Rank 0 has saved the last step that was finished.
    """
    runtime = choose_runtime(config.runtime)
    ranks = join(runtime.device)
    if ranks.size > 1:
        runtime = runtime.stepwise("where several processes make them together")
    elif stepwise:
        runtime = runtime.stepwise("to be looked at")
    if not ranks.is_first:
        yield follow(config, runtime, ranks)
        return
    if ranks.size > 1 and config.train.roll_back:
        raise UsageError("train.roll_back is for runs of one process", "Leave torchrun or roll_back out.")
    refuse_difference(config, runtime, ranks)
    data = prepare_data(config, runtime.device, download, ranks)
    network = runtime.place(build_model(config.model, data.spec, config.seed))
    if ranks.size == 1:  # several would have to agree on what each measures
        runtime = try_out(config.runtime, runtime, network, data.stream.batch(0))
        network = runtime.place(network)
    config = _as_chosen(config, runtime, resumed=resume is not None)
    if resume is None:
        run, config = create_run(config, overwrite=overwrite)
    else:
        run, config = resume[0], config.model_copy(update={"name": resume[0].path.name})
    training = Training(config, data, network, run, runtime, ranks)
    with run.lock(), nullcontext(signals) if signals else Interruption() as interruption:
        if resume is not None:
            _take_up(training, run, config, resume[1])
        finished = run.summary.is_file()  # so that its result is on the board already
        training.share()
        with RunLogger(run, resume_step=training.done) as log:
            write_environment(run, training.choose_steps(), ranks.size)
            log.begin(run, settings_of(config, training.total, count_parameters(network)))
            if training.done == 0:
                training.save(log)  # from here on the run can go on, whatever comes; and a full disk shows at once
            training.prepare()
            yield Started(
                run.path,
                count_parameters(network),
                layer_widths(network.classifier),
                training.done,
                training.total,
                training.runtime.reason,
            )
            try:
                yield from training.steps(log, interruption)
                signal = ranks.largest(interruption.signal or 0)
            except LostRankError as error:
                training.save(log)
                what = f"{error.what}; {run.path} is saved at step {training.done}"
                raise LostRankError(what, f"Go on with: stn train --resume {quote(str(run.path))}", rank=0) from error
            summary = None if signal else training.summarise()
            if summary is not None and not finished:
                log.end(summary)
        if summary is None:
            yield Interrupted(run.path, signal, training.done)
            return
        write_json(run.summary, summary)
        yield Finished(summary)


def _as_chosen(config: RunConfig, runtime: Runtime, *, resumed: bool) -> RunConfig:
    """Return the settings of a run with what was chosen at its start.

    A run that goes on keeps its ways to convolve, also where this machine lacks one: the next may have it again.
    """
    kept = resumed and config.runtime.convolutions != "auto"
    ways = config.runtime.convolutions if kept else runtime.convolutions
    chosen = config.runtime.model_copy(update={"precision": runtime.precision, "convolutions": ways})
    return config.model_copy(update={"runtime": chosen})


def _take_up(training: Training, run: RunFolder, config: RunConfig, checkpoint: Checkpoint) -> None:
    training.restore(checkpoint)
    run.write_config(config)  # it may have more epochs now, and the next resume has to know
    if training.done < training.total:
        run.summary.unlink(missing_ok=True)
