"""Max-pooling of what lies in slots, one for each place in the window: a few passes, elementwise."""

from collections.abc import Sequence

import torch
from torch import Tensor


def let_win(slots: Sequence[Tensor]) -> Tensor:
    """Return the largest of what lies in all slots but the first, in the last one; of several, the first is it.

    For each but the first of them is kept whether one before it wins: 1, else 0, in the slot that has become free. As
    numbers, since boolean masks take ten times as long to make and to use.
    """
    spare, largest, *others = slots
    for place in others:
        torch.ge(largest, place, out=spare)
        torch.maximum(largest, place, out=place)
        spare, largest = largest, place
    return largest


def give_back(gradient: Tensor, slots: Sequence[Tensor]) -> None:
    """Give the gradient of the largest to the slot that it was in, and 0 to the others; after `let_win`.

    `gradient` may lie in the last slot.
    """
    for k in range(len(slots) - 2, 0, -1):
        torch.mul(gradient, slots[k - 1], out=slots[k])
        torch.sub(gradient, slots[k], out=slots[k + 1])
        gradient = slots[k]
