"""The frozen draw of one distortion, as a dataset's split gets it."""

from collections.abc import Callable

import pytest
from torch import Tensor

from stn_cli.distortions.distortion import BLOCK, Distortion, draw_frozen
from stn_cli.distortions.extrusion import Extrusion


@pytest.fixture(scope="session")
def frozen() -> Callable[..., dict[str, Tensor]]:
    """Draw the parameters of `n` images."""

    def draw(kind: Distortion | Extrusion, n: int, seed: int = 0, purpose: str = "test") -> dict[str, Tensor]:
        return draw_frozen(lambda _, generator: kind.draw(BLOCK, generator), n, seed, purpose)

    return draw
