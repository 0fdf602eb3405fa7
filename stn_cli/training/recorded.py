"""Work on a CPU recorded as a list of operations on fixed memory, and done again by that list alone.

What it leaves away: modules and Python, autograd, views, constants and allocations. They take a quarter of the step of
a small network, in which one core has nothing to do.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stn_cli.errors import ResourceError
from stn_cli.training.arena import share_memory
from stn_cli.training.operation import FRESH, Operation, aliases, done_again, moved_again, place, tensors

Work = Callable[[], None]

_LOOKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}


class _Recording(TorchDispatchMode):
    """Notes the operations that are done inside, below autograd and autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping would import PyTorch's compiler first, 1.5 s

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given, named = aliases(args), {name: aliases(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        there = {place(part) for part in tensors((given, *named.values()))}
        made = [part.detach() for part in tensors(result) if place(part) not in there]
        count = len(result) if isinstance(result, tuple | list) else 1
        operation = Operation(func, given, named, made, len(made) == count)
        looks = _LOOKS & set(func.tags) and not _by_numbers(func, args)
        if looks or (operation.writes and made):
            what = "depends on values" if looks else "both changes and makes tensors"
            raise ResourceError(f"the training steps cannot be recorded ({func} {what})", "Set runtime.steps=eager.")
        self.operations.append(operation)
        return result


def _by_numbers(call: Any, given: Any) -> bool:
    """Return whether this picks elements by their numbers, not by a mask: then as many as there are numbers."""
    masks = (torch.bool, torch.uint8)
    return call is torch.ops.aten.index.Tensor and not any(i is not None and i.dtype in masks for i in given[1])


def record_operations(works: Sequence[Work], _: torch.Generator) -> list[Work]:
    """Return what does again all that these do on the CPU, operation for operation and bit for bit.

    What is a number when they are recorded stays as it is, so also what `tolist` reads, which nobody sees; what is to
    change lies in tensors, and where draws begin, in generators. Each work is done a few times here: before it is
    recorded, so that what is made at first use is there, and while it is found out how to do it again.

    Raises:
        ResourceError: an operation depends on the values of a tensor.
    """
    replays: list[Work] = []
    for work in works:
        work()
        with _Recording() as recording:
            work()
        replays.append(_replaying(recording.operations))
    return replays


def _replaying(operations: list[Operation]) -> Work:
    operations = _needed([one for one in operations if one.writes or one.made])  # the others are views
    fixed = _constants(operations)
    operations = [one for one in operations if one.writes or not fixed.issuperset(map(place, one.made))]
    by_place: dict[int, dict[int, Tensor]] = {}
    for part in chain.from_iterable(one.tensors for one in operations):
        by_place.setdefault(place(part), {})[id(part)] = part
    moving = {id(one): [list(by_place[place(part)].values()) for part in one.made] for one in operations if one.moves}
    moved = {place(aliases[0]) for results in moving.values() for aliases in results}
    share_memory(operations, fixed | moved)
    with torch.no_grad():
        calls = [
            moved_again(one, moving[id(one)]) if id(one) in moving else done_again(one)
            for one in operations
            if one.name not in FRESH
        ]

    def replay() -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for call in calls:
                call()

    return replay


def _needed(operations: list[Operation]) -> list[Operation]:
    """Return those that draw, change what was there before, or make what one of these reads."""
    own = {place(part) for one in operations for part in one.made}
    read: set[int] = set()
    kept: list[Operation] = []
    for one in reversed(operations):
        changed = {place(part) for part in one.changed}
        touched = changed | {place(part) for part in one.made}
        if one.draws or not changed <= own or touched & read:
            kept.append(one)
            read |= {place(part) for part in one.reads}
    return kept[::-1]


def _constants(operations: list[Operation]) -> set[int]:
    """Return the places of what is the same in every replay: made of nothing else, not at random, and written once."""
    made_by = {place(part): one for one in operations for part in one.made}
    writings = [place(part) for one in operations for part in chain(one.made, one.changed) if one.name not in FRESH]
    fixed = {where for where in made_by if writings.count(where) == 1}
    while True:
        depending = {
            where
            for where in fixed
            if made_by[where].draws
            or made_by[where].name in FRESH
            or not fixed.issuperset(map(place, made_by[where].reads))
        }
        if not depending:
            return fixed
        fixed -= depending
