"""A test split for datasets that come without one."""

import torch

from stn_cli.datasets.source import Split
from stn_cli.errors import DataError


def hold_out_every_sixth(split: Split, place: object) -> tuple[Split, Split]:
    """Return (training split, test split): every sixth image of each class, in the split's order, is for the test.

    Nothing is drawn, so every run and every machine gets the same test split. `place`: file or folder, for the error.

    Raises:
        DataError: no class has six images, so that nothing would be left to test on.
    """
    order = torch.argsort(split.targets, stable=True)
    counts = split.targets.bincount()
    rank = torch.arange(len(split)) - (counts.cumsum(0) - counts)[split.targets[order]]  # within the class
    held_out = torch.zeros(len(split), dtype=torch.bool)
    held_out[order] = rank % 6 == 5
    if not held_out.any():
        raise DataError(
            f"{place}: expected six images of a class, to test on every sixth, found at most {int(counts.max())}",
            "Add images, or give a test split of your own",
        )
    return Split(split.images[~held_out], split.targets[~held_out]), Split(
        split.images[held_out], split.targets[held_out]
    )
