"""Which runner suits a machine, and why."""

from stn_cli.config import RuntimeConfig
from stn_cli.datasets.download import Progress
from stn_cli.experiments.in_turn import InTurn
from stn_cli.experiments.packed import Packed, usable_cores
from stn_cli.experiments.runner import Runner
from stn_cli.training.runtime import choose_runtime


def choose_runner(
    config: RuntimeConfig, workers: int | None = None, *, overwrite: bool = False, download: Progress | None = None
) -> tuple[Runner, str]:
    """Return a runner for runs that compute as `config` says, and the reason for it.

    `workers`: the most runs at once.

    Raises:
        ResourceError: the device asked for does not exist here.
    """
    device = choose_runtime(config).device.type
    if device != "cpu":
        return InTurn(overwrite, download), f"one after another, each with the whole of the {device} device"
    at_once = min(workers or usable_cores(), usable_cores())
    return Packed(at_once, overwrite, download), f"up to {at_once} at once, one CPU core each"
