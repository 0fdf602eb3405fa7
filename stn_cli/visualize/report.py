"""What a report knows of a run: its result, its records, and what its weights do on the test set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.download import Progress
from stn_cli.datasets.loader import first_of_each_class
from stn_cli.errors import StnError
from stn_cli.models.budget import count_parameters
from stn_cli.training.evaluation import Evaluation, evaluate
from stn_cli.training.logger import read_metrics
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.samples import samples

SAMPLES = 10  # test images that are shown
PICTURES_BYTES = 3_000_000  # of all runs together, so that a page stays under 5 MB

Found = TypeVar("Found")


@dataclass(frozen=True)
class Tested:
    """What a run's newest weights do on its test set. `parameters`: how many learnable ones there are."""

    step: int
    parameters: int
    classes: tuple[str, ...]
    evaluation: Evaluation
    samples: tuple[Markup, ...]


@dataclass(frozen=True)
class RunReport:
    """All that a report knows of a run.

    `summary`: its result, None if it is not finished. `records`: of its metrics file. `missing`: what could not be
    looked at, and why.
    """

    run: RunFolder
    config: RunConfig
    summary: dict[str, Any] | None
    records: list[dict[str, Any]]
    tested: Tested | None
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.run.path.resolve().name

    @property
    def error_percent(self) -> float | None:
        """Test error: that of the finished run, else that of the newest weights."""
        if self.summary is not None:
            return self.summary["test_error_percent"]
        return None if self.tested is None else self.tested.evaluation.error_percent

    @property
    def interval_percent(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        if self.summary is not None:
            low, high = self.summary["test_interval_percent"]
            return low, high
        return None if self.tested is None else self.tested.evaluation.interval_percent

    @property
    def step(self) -> int | None:
        """How many steps the weights have seen that the error is of."""
        if self.summary is not None:
            return self.summary["steps"]
        return None if self.tested is None else self.tested.step

    @property
    def parameters(self) -> int | None:
        """Learnable parameters."""
        if self.summary is not None:
            return self.summary["parameters"]
        return None if self.tested is None else self.tested.parameters


def look_at(run: RunFolder, overrides: list[str], *, among: int = 1, download: Progress | None = None) -> RunReport:
    """Return all that a report is to know of a run; evaluates it on its test set.

    `overrides`: settings of the data and the runtime. `among`: how many runs share the page, and its bytes.

    Raises:
        UsageError: the configuration or an override is unsound. Whatever else is wrong is told in the report.
    """
    run.read_config(overrides)
    missing: list[str] = []

    def attempt(read: Callable[[], Found]) -> Found | None:
        try:
            return read()
        except StnError as error:
            missing.append(str(error))
            return None

    return RunReport(
        run=run,
        config=run.read_config(),
        summary=attempt(run.read_summary),
        records=attempt(lambda: read_metrics(run.metrics)) or [],
        tested=attempt(lambda: _test(run, overrides, PICTURES_BYTES // (2 * among), download)),
        missing=tuple(missing),  # last, since the others add to it
    )


def _test(run: RunFolder, overrides: list[str], most_bytes: int, download: Progress | None) -> Tested:
    trained = open_trained(run, "last", overrides, download)
    logits: list[torch.Tensor] = []
    hook = trained.network.register_forward_hook(lambda _network, _given, output: logits.append(output.logits.cpu()))
    evaluation = evaluate(trained.network, trained.test, len(trained.classes), trained.runtime)
    hook.remove()
    return Tested(
        step=trained.step,
        parameters=count_parameters(trained.network),
        classes=trained.classes,
        evaluation=evaluation,
        samples=tuple(_samples(trained, torch.cat(logits), most_bytes)),
    )


def _samples(trained: TrainedRun, logits: torch.Tensor, most_bytes: int) -> list[Markup]:
    """Return fixed test images, and the mistakes that the network is surest of."""
    targets = trained.test.targets
    fixed = first_of_each_class(targets, len(trained.classes), SAMPLES)
    shown = [samples(trained, fixed, "Fixed test images", most_bytes)]
    sure, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != targets).nonzero().flatten()
    worst = wrong[sure[wrong].argsort(descending=True, stable=True)][:SAMPLES]
    if len(worst) == 0:
        return [*shown, element("p", "No test image is read wrongly.")]
    return [*shown, samples(trained, worst, "The mistakes it is surest of", most_bytes, count=False)]
