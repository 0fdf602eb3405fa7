"""One piece of memory for all that a list of operations makes on its way."""

from bisect import insort
from collections.abc import Sequence

import torch
from torch import Tensor

from stn_cli.training.operation import Operation, place

ALIGNMENT = 64  # bytes: a line of the caches


def share_memory(operations: Sequence[Operation], elsewhere: set[int]) -> torch.UntypedStorage:
    """Let what is not needed at the same time lie at the same place, and return the memory that all of it lies in.

    So less of it passes through the caches. `elsewhere`: places of results that are to stay where they are.
    """
    parts: dict[int, Tensor] = {id(part): part for one in operations for part in one.tensors}
    places = {key: place(part) for key, part in parts.items()}
    touched = [{places[id(part)] for part in one.tensors} for one in operations]
    last = {where: index for index, all_of_it in enumerate(touched) for where in all_of_it}
    sizes = {
        place(part): -(-part.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
        for one in operations
        for part in one.made
        if place(part) not in elsewhere
    }
    offsets, free, end = dict[int, int](), list[tuple[int, int]](), 0  # free: (size, offset), the smallest first
    for index, one in enumerate(operations):
        for where in {place(part) for part in one.made} & sizes.keys():
            size = sizes[where]
            fitting = next((i for i, (room, _) in enumerate(free) if room >= size), None)
            if fitting is None:
                offsets[where], end = end, end + size
            else:
                room, offsets[where] = free.pop(fitting)
                if room > size:
                    insort(free, (room - size, offsets[where] + size))
        for where in touched[index] & sizes.keys():
            if last[where] == index:
                free = _with(free, sizes[where], offsets[where])
    arena = torch.empty(end, dtype=torch.uint8).untyped_storage()
    for key, part in parts.items():
        if places[key] in offsets:
            start = offsets[places[key]] // part.element_size() + part.storage_offset()
            part.set_(arena, start, part.shape, part.stride())  # pyright: ignore[reportArgumentType] - an untyped storage
    return arena


def _with(free: list[tuple[int, int]], size: int, offset: int) -> list[tuple[int, int]]:
    """Return free memory with a piece added and joined to its neighbours."""
    for room, start in free:
        if start + room == offset or offset + size == start:
            return _with([one for one in free if one != (room, start)], size + room, min(offset, start))
    return sorted([*free, (size, offset)])
