"""Errors on a frozen set, with their confidence interval."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from stn_cli.datasets.loader import FrozenSet
from stn_cli.errors import NumericsError
from stn_cli.models.network import Network
from stn_cli.training.answers import Answers, AnswerSheet
from stn_cli.training.collapse import WarpStatistics, WarpSums
from stn_cli.training.distributed import ALONE, Ranks
from stn_cli.training.runtime import Runtime

BATCH = 512  # images evaluated at once; bounds the memory


@dataclass(frozen=True)
class Evaluation:
    """What a network gets wrong.

    `confusion`: counts by [true class, predicted class]. `loss`: mean cross entropy.
    `warps`: what each transformer does to the images, by its name. `answers`: what was said to each image.
    """

    confusion: Int64[Tensor, "classes classes"]
    loss: float
    warps: dict[str, WarpStatistics] = field(default_factory=dict)
    answers: Answers | None = field(default=None, repr=False)

    @property
    def outside_percents(self) -> dict[str, float]:
        """By the transformers' names, the share of samples that lie outside of what each reads."""
        return {name: warp.outside_percent for name, warp in self.warps.items()}

    @property
    def outside_percent(self) -> float | None:
        """The share of the transformer that has the most outside; None without a transformer."""
        return max(self.outside_percents.values(), default=None)

    @property
    def n(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def wrong(self) -> int:
        """Number of images whose predicted class is not the true one."""
        return self.n - int(self.confusion.trace())

    @property
    def error_percent(self) -> float:
        """Share of wrong images in percent."""
        return 100 * self.wrong / self.n

    @property
    def interval_percent(self) -> tuple[float, float]:
        """95 % confidence interval of the error in percent (Wilson's score interval)."""
        return wilson_interval(self.wrong, self.n)

    @property
    def class_errors_percent(self) -> list[float | None]:
        """Share of wrong images of every true class in percent; None for a class without images."""
        counts, right = self.confusion.sum(dim=1).tolist(), self.confusion.diagonal().tolist()
        return [100 * (c - r) / c if c else None for c, r in zip(counts, right, strict=True)]


def evaluate(network: Network, frozen: FrozenSet, classes: int, runtime: Runtime, ranks: Ranks = ALONE) -> Evaluation:
    """Return how a network does on every image of a frozen set. Leaves it in the mode it was in.

    `ranks`: share the batches among them; each has to call this and gets the whole answer.

    Raises:
        NumericsError: the loss is NaN or infinite, so the predictions mean nothing.
    """
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=runtime.device)
    loss, sums = torch.zeros((), device=runtime.device), WarpSums(network, runtime.device)
    sheet = AnswerSheet(network, len(frozen), classes, runtime.device)
    own = slice(ranks.rank, None, ranks.size)  # of the batches
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for start, batch in zip(range(0, len(frozen), BATCH)[own], frozen.batches(BATCH, own), strict=True):
            with runtime.autocast():
                logits, warps = network(batch.images.contiguous(memory_format=runtime.memory_format))
            sums.add(warps)
            sheet.add(slice(start, start + BATCH), batch, logits, warps)
            loss += cross_entropy(logits, batch.targets, reduction="sum")
            confusion += torch.bincount(batch.targets * classes + logits.argmax(dim=1), minlength=classes * classes)
        ranks.add_up([confusion])
        ranks.add_up([loss])
        sums.share(ranks)
        sheet.share(ranks)
    network.train(was_training)
    mean = loss.item() / len(frozen)
    if not math.isfinite(mean):
        raise NumericsError(f"the loss on {len(frozen)} images is {mean}", "Lower train.learning_rate and train again.")
    return Evaluation(confusion.view(classes, classes).cpu(), mean, sums.statistics(len(frozen)), sheet.read())


def wilson_interval(wrong: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share in percent (Wilson 1927); sound at 0 and at small counts too."""
    z = 1.959963984540054
    share, spread = wrong / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)
