"""Several processes that train one network together, as torchrun starts them. All that knows torch.distributed.

Every process, a rank, computes its rows of each batch; gradients are added up over all ranks before the update, so that
every rank makes the update of the whole batch. The networks are small (1.6 MB of gradients at 400k parameters): one
flat buffer and one reduction per step take the place of DistributedDataParallel, whose buckets hide the transfer of
large networks behind the backward pass, and whose hooks would stand between the step and what it clips and skips.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stn_cli.errors import LostRankError, ResourceError, UsageError
from stn_cli.names import RANK_VARIABLES

PATIENCE = timedelta(minutes=10)  # until every rank has started and has its data, which may be downloaded first
# Until an answer while they train. A process that dies closes its connections and is noticed at once; this is for one
# that hangs, or whose machine is gone. Evaluations are shared out, so that ranks wait for each other's writing only.
LIMIT = timedelta(seconds=20)


class Ranks:
    """The processes of a run, of which this one is number `rank` of `size`. Alone, every method is a no-op.

    Every rank has to call the same methods in the same order. All raise LostRankError where another rank has ended
    or does not answer; whatever a rank does wrong, the others learn of it so.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._group = group  # answers within LIMIT; the default group within PATIENCE

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes, evaluates pictures and speaks: rank 0."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """Return which of the `n` rows of a batch are this rank's. Shares differ by one where `n` does not divide."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type, in place, by their sums over all ranks: the same bits everywhere."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with self._or_lost():
            dist.all_reduce(flat, group=self._group)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type, in place, by those of rank 0."""
        for tensor in tensors if self.rank else ():
            tensor.zero_()
        self.add_up(tensors)

    def largest(self, number: int) -> int:
        """Return the largest of the numbers that the ranks give."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        with self._or_lost():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._group)
        return int(found)

    def refuse_difference(self, settings: dict[str, Any]) -> None:
        """Make sure that all ranks have the same settings.

        Raises:
            UsageError: they have not; names what differs. Raised on rank 0; the others lose rank 0.
        """
        if self.size == 1:
            return
        gathered: list[Any] = [None] * self.size
        with self._or_lost():
            dist.all_gather_object(gathered, settings)
        differing = [
            f"rank {rank}: {key} {gathered[0].get(key)} → {other.get(key)}"
            for rank, other in enumerate(gathered)
            for key in gathered[0].keys() | other.keys()
            if gathered[0].get(key) != other.get(key)
        ]
        if differing:
            if not self.is_first:
                self.wait()  # until rank 0 has said it and ended
            raise UsageError(
                f"the processes of this run have different settings ({', '.join(sorted(differing))})",
                "Start all of them with the same command and the same files.",
            )

    def wait_for_data(self) -> None:
        """Wait until every rank is here, however long its data took."""
        if self.size > 1:
            with self._or_lost():
                dist.all_reduce(torch.zeros(1))

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.largest(0)

    def outlast_first(self) -> None:
        """Wait on every rank but 0 until rank 0 has ended.

        A launcher that sees one process fail stops the others: none may end before the one that saves and speaks.
        """
        if not self.is_first:
            with suppress(LostRankError):
                self.wait()

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of torch.distributed, whose kinds differ between backends and releases
            raise LostRankError(
                f"another of the {self.size} processes of this run has ended or does not answer",
                "See what it said, and start them all again.",
                rank=self.rank,
            ) from error


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """Return the processes that torchrun started this one among; alone, without its variables in the environment.

    The process group is made once and lives as long as the process: its end is what tells the others. On a machine
    with several GPUs, "cuda" means this rank's own from here on.

    Raises:
        UsageError: some of the variables are missing or wrong.
        ResourceError: there is no device for this rank.
        LostRankError: the others do not come.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    missing = [name for name in RANK_VARIABLES if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"RANK and WORLD_SIZE are in the environment, {', '.join(missing)} not", "Start the processes by torchrun."
        )
    try:
        rank, size, place = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError as error:
        raise UsageError("RANK, WORLD_SIZE or LOCAL_RANK is no number", "Start the processes by torchrun.") from error
    if device.type == "cuda" and place >= (count := torch.cuda.device_count()):
        raise ResourceError(
            f"process {place + 1} on this machine has no CUDA device: there are {count}",
            f"Start {count} with torchrun --nproc-per-node {count}, or add --device cpu.",
        )
    if device.type not in ("cpu", "cuda"):
        raise ResourceError(f"processes cannot share work on {device.type}", "Add --device cpu.")
    return _join(rank, size, place, device.type)


@cache
def _join(rank: int, size: int, place: int, device: str) -> Ranks:
    backends = "gloo"
    if device == "cuda":
        backends = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(place)
        # Otherwise the update would be queued behind a reduction that may never end, and NCCL's watchdog would abort
        # the process where one fails. So the host waits for each reduction, and a failure is an exception here.
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        atexit.register(dist.destroy_process_group)  # NCCL complains without it
    with Ranks(rank, size)._or_lost():
        dist.init_process_group(backends, timeout=PATIENCE)
        return Ranks(rank, size, dist.new_group(timeout=LIMIT))
