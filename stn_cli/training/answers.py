"""What a network says to each image of a set, noted while it is evaluated: no image is looked at a second time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from stn_cli.datasets.loader import Batch
from stn_cli.models.network import Network
from stn_cli.models.place import NamedWarp
from stn_cli.training.distributed import Ranks
from stn_cli.training.look import IMAGE_PLACES

MOST_VALUES = 2**20  # of the mean images of all classes; where classes or images are larger, there are no means


@dataclass(frozen=True)
class Answers:
    """A network's answers to the images of a set, in their order, on the CPU.

    `losses`: cross entropies. `thetas`: by the transformers' names. `means`: the mean image of every class, zeros for a
    class without images, before the first warp ("before") and after each transformer that reads images; empty without
    one. Where several ranks share the images, the means are those of its own.
    """

    targets: Int64[Tensor, "n"]
    predicted: Int64[Tensor, "n"]
    losses: Float[Tensor, "n"]
    thetas: dict[str, Float[Tensor, "n parameters"]]
    means: dict[str, Float[Tensor, "classes channels height width"]]

    def worst(self, count: int) -> Int64[Tensor, "k"]:
        """Return which wrong images have the highest losses, the highest first; at most `count`."""
        wrong = (self.predicted != self.targets).nonzero().flatten()
        return wrong[self.losses[wrong].argsort(descending=True, stable=True)][:count]


class AnswerSheet:
    """Takes the answers down on the device, batch by batch, and nothing from there before it is read."""

    def __init__(self, network: Network, n: int, classes: int, device: torch.device) -> None:
        self._targets = torch.zeros(n, dtype=torch.int64, device=device)
        self._predicted = torch.zeros_like(self._targets)
        self._losses = torch.zeros(n, device=device)
        self._thetas: dict[str, Tensor] = {}
        for place in network.by_place.values():
            for name, one in zip(place.names, place.transformers, strict=True):
                self._thetas[name] = torch.zeros(n, len(one.grid_generator.identity), device=device)
        self._drawn = {
            name for place in IMAGE_PLACES if place in network.places for name in network.by_place[place].names
        }
        self._sums: dict[str, Tensor] = {}
        self._counts = torch.zeros(classes, device=device)

    def add(self, at: slice, batch: Batch, logits: Float[Tensor, "m classes"], warps: Sequence[NamedWarp]) -> None:
        """Take down the answers to the images `at` these places."""
        self._targets[at] = batch.targets
        self._predicted[at] = logits.argmax(dim=1)
        self._losses[at] = cross_entropy(logits, batch.targets, reduction="none")
        for warp in warps:
            self._thetas[warp.name][at] = warp.theta
        classes = len(self._counts)
        if self._drawn and classes * batch.images[0].numel() <= MOST_VALUES:
            # A product, because adding rows by index has no fixed order on a GPU.
            members = one_hot(batch.targets, classes).float().T
            self._counts += members.sum(dim=1)
            outputs = {warp.name: warp.output for warp in warps if warp.name in self._drawn}
            for name, images in {"before": batch.images, **outputs}.items():
                sums = (members @ images.float().flatten(1)).view(classes, *images.shape[1:])
                self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def share(self, ranks: Ranks) -> None:
        """Add what other ranks have taken down: theirs are zeros where ours are not, and the other way round."""
        ranks.add_up([self._targets, self._predicted])
        ranks.add_up([self._losses, *self._thetas.values()])

    def read(self) -> Answers:
        """Return what was taken down."""
        each = self._counts.clamp(min=1).view(-1, 1, 1, 1)
        return Answers(
            self._targets.cpu(),
            self._predicted.cpu(),
            self._losses.cpu(),
            {name: theta.cpu() for name, theta in self._thetas.items()},
            {name: (sums / each).cpu() for name, sums in self._sums.items()},
        )
