"""The true parameters of a split's samples: drawn copy by copy, and kept in a safetensors file."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.safetensors_header import safetensors_header
from stn_cli.datasets.scene import Scene
from stn_cli.storage import writing

Draws = Callable[[], Iterator[FrozenSet]]
"""The frozen sets of a split's copies, from the first on, each drawn when it is asked for."""


def draw_copies(loader: BatchLoader, seed: int, purposes: Sequence[str], limit: int | None) -> Draws:
    """Return what draws one frozen set per purpose, of `limit` images, again at every call: one is kept in memory."""

    @lru_cache(maxsize=1)  # where there is but one, it is drawn once
    def draw(purpose: str) -> FrozenSet:
        return FrozenSet(loader, seed, purpose, limit)

    return lambda: map(draw, purposes)


def write_parameters(path: Path, draws: Draws, count: int) -> str:
    """Write the parameters of `count` samples, and which image each shows, "source_image"; return the file's SHA-256.

    Several copies are drawn again for each tensor of the file, so that no more than one is in memory. That takes a
    tenth of the time of rendering them, or less.

    Raises:
        ResourceError: the file cannot be written.
    """
    kinds = {name: (value.dtype, value.shape[1:]) for name, value in _parameters(next(draws())).items()}
    names = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))  # the order of safetensors itself
    with writing(path) as file:
        file.write(safetensors_header({name: (kinds[name][0], [count, *kinds[name][1]]) for name in names}))
        for name in names:
            for frozen in draws():
                values = _parameters(frozen)[name].numpy()
                file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return file.sha256


def bytes_per_sample(scene: Scene) -> int:
    """Return how many bytes of the file a sample takes."""
    drawn = scene.draw(1, torch.Generator(), among=1, own=None)
    return 8 + sum(value.nbytes for value in drawn.values())  # 8: its source image


def _parameters(frozen: FrozenSet) -> dict[str, Tensor]:
    return frozen.parameters | {"source_image": torch.arange(len(frozen))}
