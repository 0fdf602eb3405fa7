"""What the evaluations of a run show on TensorBoard, and how much at most.

The events of a run are at most 32 MiB of pictures and a few megabytes of all else: up to 1000 points of each curve, as
many as TensorBoard draws, and pictures and histograms of at most 50 evaluations. metrics.jsonl has every number.
"""

from collections.abc import Sequence
from functools import partial

from stn_cli.config import RunConfig
from stn_cli.datasets.loader import first_of_each_class
from stn_cli.models.network import Network
from stn_cli.training.data import RunData
from stn_cli.training.evaluation import Evaluation
from stn_cli.training.event_file import Setting
from stn_cli.training.logger import RunLogger
from stn_cli.training.look import look_at_images
from stn_cli.training.pictures import evaluation_pictures, look_picture
from stn_cli.training.runtime import Runtime
from stn_cli.training.schedule import evaluation_steps
from stn_cli.training.tags import ABOUT_PICTURES, TEST_IMAGES, theta_tags

MOST_POINTS = 1000
MOST_SHOWN = 50
PICTURE_BYTES = 32 * 2**20
LARGEST = 84  # pixels that images are enlarged to: TensorBoard shows pictures small, and this takes half the time


class Showing:
    """Chooses what of a run is shown, and takes what pictures are made of to the CPU, where a thread draws them."""

    def __init__(self, config: RunConfig, data: RunData, network: Network, runtime: Runtime, total: int) -> None:
        self._config = config
        self._data = data
        self._network = network
        self._runtime = runtime
        self._total = total
        evaluations = sorted(evaluation_steps(config, total))
        self._points, self._pictured = thinned(evaluations, MOST_POINTS), thinned(evaluations, MOST_SHOWN)
        self._most = PICTURE_BYTES // (len(ABOUT_PICTURES) * len(self._pictured))
        self._tags = {
            name: theta_tags(name, one.grid_generator)
            for place in network.by_place.values()
            for name, one in zip(place.names, place.transformers, strict=True)
        }
        self._rates: dict[float, list[str]] = {}
        for place in network.by_place.values():
            for name, rate in zip(place.names, place.rates, strict=True):
                self._rates.setdefault(config.train.localisation_rate if rate is None else rate, []).append(name)

    def reading(self, step: int) -> bool:
        """Whether the means read after so many steps are points of the curves."""
        every = self._config.log.every
        stride = -(-self._total // (every * MOST_POINTS))
        return step // every % stride == 0 or step == self._total

    def evaluation(self, step: int) -> bool:
        """Whether the evaluation after so many steps is a point of the curves."""
        return step in self._points

    def rates(self, rates: Sequence[float]) -> dict[str, float]:
        """Return learning rates of localisation networks, a group of them each, by name."""
        names = ["localisation"] if len(rates) == 1 else [f"localisation {', '.join(n)}" for n in self._rates.values()]
        return dict(zip(names, rates, strict=True))

    def show(self, log: RunLogger, step: int, evaluation: Evaluation | None) -> None:
        """Log pictures and histograms of an evaluation; of the test images alone where no others are held out."""
        if step not in self._pictured:
            return
        if evaluation is not None and evaluation.answers is not None:
            for name, theta in evaluation.answers.thetas.items():
                log.histograms(dict(zip(self._tags[name], theta.unbind(dim=1), strict=True)), step)
        if not self._config.log.images:
            return
        classes, data = self._data.classes, self._data
        index = first_of_each_class(data.test.targets, len(classes), self._config.log.images)
        batch = data.test.take(index)
        look = look_at_images(self._network, batch.images, self._runtime)
        shown = (batch.images.cpu(), batch.targets.tolist(), look, classes)
        log.picture(TEST_IMAGES, partial(look_picture, *shown, most=LARGEST), step, self._most)
        if evaluation is not None and data.validation is not None:
            of = (self._network, data.validation, evaluation, classes, self._runtime)
            for tag, draw in evaluation_pictures(*of, most=LARGEST):
                log.picture(tag, draw, step, self._most)


def thinned(steps: Sequence[int], most: int) -> set[int]:
    """Return every k-th of some steps, the last among them, so that there are at most `most`."""
    return set(steps[:: -max(1, -(-len(steps) // most))])


def settings_of(config: RunConfig, steps: int, parameters: int) -> dict[str, Setting]:
    """Return what runs are told apart by: the same names for every run, as the columns of one table."""
    train = config.train
    return {
        "dataset": config.data.dataset,
        "distortion": config.distortion.kind,
        "model": config.model.label,
        "parameters": parameters,
        "recipe": train.recipe,
        "steps": steps,
        "batch_size": train.batch_size,
        "learning_rate": train.learning_rate,
        "localisation_optimiser": train.localisation_optimiser,
        "localisation_rate": train.localisation_rate,
        "seed": config.seed,
        "precision": config.runtime.precision,
    }
