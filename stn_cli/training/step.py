"""One training step: forward, loss, backward, update; the counts stay on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from stn_cli.config import TrainConfig
from stn_cli.datasets.loader import Batch, uploaded
from stn_cli.geometry.grids import square_beyond
from stn_cli.models.network import Network
from stn_cli.training.distributed import ALONE, Ranks
from stn_cli.training.optimiser import Optimiser, learning_rate
from stn_cli.training.runtime import Runtime


@dataclass(frozen=True)
class Progress:
    """Means over the steps since the last reading. `loss` holds what `bounds_penalty` adds."""

    loss: float
    error_percent: float
    gradient_norm: float
    skipped: int


class TrainStep:
    """The body of the training loop.

    A step whose loss or gradient is not finite is skipped on the device, without a transfer, and counted: the weights
    stay finite, and the loop learns of it when it reads the counts. Where several ranks compute a batch, loss and
    gradient are those of the whole of it before anything is decided, so that all ranks make the same update.
    """

    def __init__(
        self,
        network: Network,
        optimiser: Optimiser,
        config: TrainConfig,
        total: int,
        runtime: Runtime,
        ranks: Ranks = ALONE,
    ) -> None:
        self._network = network
        self._optimiser = optimiser
        self._config = config
        self._total = total
        self._runtime = runtime
        self._ranks = ranks
        rows = ranks.rows(config.batch_size)
        self._share = (rows.stop - rows.start) / config.batch_size  # of each batch
        self._parameters = list(network.parameters())
        # steps, loss, wrong images, gradient norm, skipped steps
        self.counts = torch.zeros(5, device=runtime.device)

    def __call__(self, batch: Batch, step: int) -> None:
        """Train on one batch as step `step`, counted from 0."""
        self.update(batch, self.rates(step)[0])

    def rates(self, step: int, count: int = 1) -> Float[Tensor, "count groups"]:
        """Return the learning rates of `count` steps from one on, one for each group of the optimiser.

        On a CUDA device in float32 there, as its fused update wants them; else in float64 on the CPU.
        """
        steps = range(step, step + count)
        groups = [self._optimiser.rates(learning_rate(self._config, i, self._total)) for i in steps]
        if self._runtime.device.type == "cuda":
            return uploaded(torch.tensor(groups), self._runtime.device)
        return torch.tensor(groups, dtype=torch.float64)

    def update(self, batch: Batch, rates: Float[Tensor, "groups"]) -> None:
        """Train on one batch with a row of `rates`. Nothing passes between host and CUDA device here."""
        self._optimiser.set_rates(rates)
        images = batch.images.contiguous(memory_format=self._runtime.memory_format)
        with self._runtime.autocast():
            output = self._network(images)
            loss = cross_entropy(output.logits, batch.targets)
            if self._config.bounds_penalty:
                beyond = torch.stack([square_beyond(warp.grid).mean() for warp in output.warps]).sum()
                loss = loss + self._config.bounds_penalty * beyond
            if self._share < 1:
                loss = self._share * loss
        self._optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        with torch.no_grad():
            totals = torch.stack([loss, (output.logits.argmax(dim=1) != batch.targets).sum()])
        self._ranks.add_up([*gradients, totals])
        loss, wrong = totals
        norm = self._clip()
        either = norm + loss
        skip = (either - either != 0).float()  # unless both are finite; in half as many operations as isfinite
        if self._runtime.device.type != "mps":
            self._optimiser.step(skip)
        elif not skip.item():  # the kernels for MPS cannot skip
            self._optimiser.step()
        self.counts += torch.stack([torch.ones_like(norm), loss, wrong, norm, skip])

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Take back whatever steps are made inside: weights, momentum and counts are as before, gradients forgotten."""
        changing = [*self._network.state_dict().values(), *self._optimiser.tensors().values(), self.counts]
        before = [tensor.clone() for tensor in changing]
        try:
            yield
        finally:
            for tensor, value in zip(changing, before, strict=True):
                tensor.copy_(value)
            self._optimiser.zero_grad()

    @property
    def skipped(self) -> Tensor:
        """Number of steps skipped since the last reading, on the device."""
        return self.counts[4]

    def read(self) -> Progress:
        """Return the means since the last reading and start anew. The one transfer from the device."""
        steps, loss, wrong, norm, skipped = self.counts.tolist()
        self.counts.zero_()
        images = steps * self._config.batch_size  # every training batch is full
        return Progress(loss / steps, 100 * wrong / images, norm / steps, int(skipped))

    def _clip(self) -> Tensor:
        """Clip the gradients of SGD's weights, and return the norm of all before it."""
        norms: list[Tensor] = []
        for parameters in self._optimiser.by_method:
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if self._config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._optimiser.by_method[0], self._config.clip_norm, norms[0])
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()
