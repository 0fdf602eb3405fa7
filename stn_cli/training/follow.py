"""What every rank but the first does in a distributed run: its share of each step and evaluation, and nothing else.

It makes the reductions that `loop.train` makes on rank 0, in the same order. It writes and says nothing; where rank 0
fails, its end is what ends this.
"""

from contextlib import suppress

from stn_cli.config import RunConfig
from stn_cli.errors import NumericsError
from stn_cli.models.build import build_model
from stn_cli.models.network import Network
from stn_cli.training.data import prepare_data
from stn_cli.training.distributed import Ranks
from stn_cli.training.evaluation import evaluate
from stn_cli.training.events import Followed
from stn_cli.training.interruption import Interruption
from stn_cli.training.optimiser import Optimiser
from stn_cli.training.restore import flat_settings
from stn_cli.training.runtime import Runtime
from stn_cli.training.schedule import evaluation_steps, total_steps
from stn_cli.training.step import TrainStep


def follow(config: RunConfig, runtime: Runtime, ranks: Ranks) -> Followed:
    """Compute this rank's share of a run from wherever rank 0 begins it.

    Raises:
        LostRankError: rank 0 or another one has ended.
        StnError: what is wrong here alone.
    """
    refuse_difference(config, runtime, ranks)
    data = prepare_data(config, runtime.device, ranks=ranks)
    network = runtime.place(build_model(config.model, data.spec, config.seed))
    total, classes = total_steps(config, data.stream.steps_per_epoch), len(data.classes)
    optimiser = Optimiser(network, config.train)
    step = TrainStep(network, optimiser, config.train, total, runtime, ranks)
    evaluate_at = evaluation_steps(config, total) if data.validation is not None else set()
    with Interruption() as interruption:
        done, stop = share_state(ranks, 0, network, optimiser), False
        while done < total and not stop:
            step(data.stream.batch(done), done)
            done += 1
            if done in evaluate_at and data.validation is not None:
                with suppress(NumericsError):  # rank 0 has the same
                    evaluate(network, data.validation, classes, runtime, ranks)
            stop = ranks.largest(interruption.signal or 0) > 0
        signal = ranks.largest(interruption.signal or 0)
    if not signal:
        with suppress(NumericsError):
            evaluate(network, data.test, classes, runtime, ranks)
    ranks.outlast_first()
    return Followed(signal)


def refuse_difference(config: RunConfig, runtime: Runtime, ranks: Ranks) -> None:
    """Make sure that all ranks train the same in the same way.

    Raises:
        UsageError: they do not; on rank 0. The others lose rank 0.
    """
    chosen = {"device": runtime.device.type, "precision": runtime.precision, "convolutions": runtime.convolutions}
    ranks.refuse_difference(
        flat_settings(config.model_dump(mode="json")) | {f"runtime.{name}": value for name, value in chosen.items()}
    )


def share_state(ranks: Ranks, done: int, network: Network, optimiser: Optimiser) -> int:
    """Give every rank the weights and the optimiser's state of rank 0, and return how many steps it has done."""
    ranks.wait_for_data()
    ranks.share([*network.state_dict().values(), *optimiser.tensors().values()])
    return ranks.largest(done)
