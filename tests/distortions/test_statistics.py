"""Every parameter follows its distribution, and no parameter tells of another one.

Drawn for one fixed seed, as any dataset is: of a test at p > 0.001 one seed in a thousand fails with nothing wrong.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import scipy.stats
import torch

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.scene import Scene
from stn_cli.datasets.source import Source, Split
from stn_cli.distortions.distortion import BLOCK, draw_frozen

N, M = 60_000, 1297  # canvases; images to cut pieces from
KINDS: dict[str, dict[str, object]] = {
    "R": {"kind": "R"},
    "RTS": {"kind": "RTS"},
    "P": {"kind": "P"},
    "E": {"kind": "E"},
    "T": {"kind": "T"},
    "TC": {"kind": "TC"},
    "addition": {"kind": "addition"},
    "volume": {"kind": "volume", "rotation": (-20, 50)},
    "chain": {"kind": "chain", "stages": ({"kind": "RTS", "scale": (0.5, 2)}, {"kind": "E"}, {"kind": "TC"})},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def uniform(low: float, high: float) -> Callable[[np.ndarray], float]:
    return lambda values: scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf).pvalue


def normal(sigma: float) -> Callable[[np.ndarray], float]:
    return lambda values: scipy.stats.kstest(values, scipy.stats.norm(0, sigma).cdf).pvalue


def one_of(count: int, first: int = 0) -> Callable[[np.ndarray], float]:
    """Whole numbers, `count` in all, each as often as any other."""

    def chi_square(values: np.ndarray) -> float:
        whole = values.astype(np.int64) - first
        assert (whole + first == values).all()
        return scipy.stats.chisquare(np.bincount(whole, minlength=count)).pvalue if whole.max() < count else 0.0

    return chi_square


RTS = {"rotation": uniform(-45, 45), "scale": uniform(0.7, 1.2), "place": uniform(-1, 1)}
PIECES = {"piece_image": one_of(M - 1, 1), "piece_from": one_of(23)}
E = {"scale": uniform(0.75, 1), "control_point_shift": normal(1.5)}
EXPECTED: dict[str, dict[str, Callable[[np.ndarray], float]]] = {
    "R": {"rotation": uniform(-90, 90)},
    "RTS": RTS,
    "P": {"scale": uniform(0.75, 1), "corner_shift": normal(5)},
    "E": E,
    "T": {"corner": one_of(57)},
    "TC": PIECES | {"corner": one_of(33), "piece_to": one_of(55)},
    "addition": {f"{which}.{name}": law for which in ("first", "second") for name, law in RTS.items()}
    | {"second_image": one_of(M)},
    "volume": {"volume.rotation": uniform(-20, 50), "volume.place": uniform(-1, 1)},
    # The canvases are 42 pixels wide, 42, and 90.
    "chain": {f"1.{name}": law for name, law in {**RTS, "scale": uniform(0.5, 2)}.items()}
    | {f"2.{name}": law for name, law in E.items()}
    | PIECES
    | {"3.corner": one_of(49), "piece_to": one_of(85)},
}


@functools.cache
def scene(kind: str) -> Scene:
    split = Split(torch.zeros(M, 1, 28, 28, dtype=torch.uint8), torch.zeros(M, dtype=torch.int64))
    source = Source("zeros", split, split, tuple("0123456789"))
    return build_scene(RunConfig.model_validate({"distortion": KINDS[kind]}).distortion, source)


def drawn(kind: str, seed: int = 0, purpose: str = "train") -> Mapping[str, torch.Tensor]:
    """The parameters of `N` samples that show the training images in turn; `piece_image` counted on from its own."""

    def draw(start: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        own = torch.arange(start, start + BLOCK) % M
        block = scene(kind).draw(BLOCK, generator, among=M, own=own)
        if "piece_image" in block:
            block["piece_image"] = (block["piece_image"] - own[:, None]) % M
        return block

    return draw_frozen(draw, N, seed, purpose)


def columns(parameters: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Every number of a sample by itself, standardised, [numbers, N]; constant ones are left out."""
    rows = torch.cat([value.reshape(N, -1).double() for value in parameters.values()], dim=1).T
    rows = rows[rows.std(dim=1) > 0]
    return ((rows - rows.mean(dim=1, keepdim=True)) / rows.std(dim=1, keepdim=True)).numpy()


@every_kind
def test_every_number_follows_its_distribution(kind: str) -> None:
    found = drawn(kind)
    constant = {"scale"} if kind == "R" else set()
    assert found.keys() == EXPECTED[kind].keys() | constant
    for name, p_value in EXPECTED[kind].items():
        values = found[name].reshape(N, -1).double().numpy()
        each = [p_value(column) for column in values.T]
        # Every single number of the sample, of 2 to 32; a thousandth for all of them together.
        assert min(each) > 1e-3 / len(each), f"{name}: {each}"
        assert p_value(values.flatten()) > 1e-3, name


@every_kind
def test_numbers_of_a_sample_and_of_its_neighbours_do_not_depend_on_one_another(kind: str) -> None:
    """A correlation of independent numbers is normal with a deviation of 1/√N; beyond 5 lie 6 in ten million."""
    rows = columns(drawn(kind))
    within = rows @ rows.T / N - np.eye(len(rows))
    assert np.abs(within).max() < 5 / N**0.5
    for distance in (1, 2, BLOCK):
        between = rows[:, distance:] @ rows[:, :-distance].T / (N - distance)
        assert np.abs(between).max() < 5 / (N - distance) ** 0.5


@every_kind
def test_other_seeds_and_splits_have_nothing_to_do_with_it(kind: str) -> None:
    rows = columns(drawn(kind))
    for seed, purpose in ((1, "train"), (0, "test"), (0, "validation")):
        between = rows @ columns(drawn(kind, seed, purpose)).T / N
        assert np.abs(between).max() < 5 / N**0.5


@pytest.mark.parametrize(("kind", "name", "count"), [("T", "corner", 57), ("TC", "corner", 33), ("TC", "piece_to", 55)])
def test_every_place_is_as_likely_as_any_other(kind: str, name: str, count: int) -> None:
    x, y = drawn(kind)[name].reshape(-1, 2).long().unbind(dim=1)
    assert scipy.stats.chisquare(torch.bincount(y * count + x, minlength=count * count)).pvalue > 1e-3
