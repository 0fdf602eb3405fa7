import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from stn_cli.distortions.chain import Chain
from stn_cli.distortions.distortion import BLOCK, Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import regular_grid
from stn_cli.randomness import named_generator

Frozen = Callable[..., dict[str, torch.Tensor]]
SIZE = (28, 26)
KINDS: dict[str, Distortion] = {
    "R": Similarity(in_size=SIZE, canvas=(28, 28), rotation=(-90.0, 90.0), scale=(1.0, 1.0), place=False),
    "RTS": Similarity(in_size=SIZE, canvas=(42, 40), rotation=(-45.0, 45.0), scale=(0.7, 1.2), place=True),
    "P": Projective(in_size=SIZE, canvas=(28, 30), scale=(0.75, 1.0), corner_sigma=5.0),
    "E": Elastic(in_size=SIZE, canvas=(30, 28), scale=(0.75, 1.0), control_point_sigma=1.5),
    "T": Placement(in_size=SIZE, canvas=(40, 44)),
}
KINDS["chain"] = Chain(
    [
        KINDS["R"],
        Elastic(in_size=(28, 28), canvas=(30, 32), scale=(0.75, 1.0), control_point_sigma=1.5),
        Placement(in_size=(30, 32), canvas=(40, 44)),
    ]
)
NEUTRAL: dict[str, Distortion] = {
    "R": Similarity(in_size=SIZE, canvas=SIZE, rotation=(0.0, 0.0), scale=(1.0, 1.0), place=False),
    "RTS": Similarity(in_size=SIZE, canvas=SIZE, rotation=(0.0, 0.0), scale=(1.0, 1.0), place=True),
    "P": Projective(in_size=SIZE, canvas=SIZE, scale=(1.0, 1.0), corner_sigma=0.0),
    "E": Elastic(in_size=SIZE, canvas=SIZE, scale=(1.0, 1.0), control_point_sigma=0.0),
    "T": Placement(in_size=SIZE, canvas=SIZE),
}
NEUTRAL["chain"] = Chain(list(NEUTRAL.values()))
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def images(n: int = 8, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", NEUTRAL.values(), ids=NEUTRAL)
def test_nothing_drawn_leaves_the_image_as_it_is(kind: Distortion) -> None:
    parameters = kind.draw(8, named_generator(0, "test"))
    torch.testing.assert_close(kind.apply(images(), parameters), images(), atol=1e-4, rtol=0)


@every_kind
def test_parameters_are_float32_one_row_per_image(kind: Distortion) -> None:
    for value in kind.draw(5, named_generator(0, "test")).values():
        assert value.dtype == torch.float32
        assert value.shape[0] == 5
        assert value.isfinite().all()


@every_kind
def test_parameters_are_drawn_independently_of_one_another(kind: Distortion) -> None:
    drawn = kind.draw(4096, named_generator(0, "test"))
    columns = torch.cat([value.reshape(4096, -1) for value in drawn.values()], dim=1).T
    columns = columns[columns.std(dim=1) > 0]
    between = torch.corrcoef(columns).reshape(len(columns), -1) - torch.eye(len(columns))
    assert between.abs().max() < 5 / 4096**0.5


@every_kind
def test_apply_gives_the_canvas_and_the_same_bytes_for_the_same_parameters(kind: Distortion) -> None:
    parameters = kind.draw(8, named_generator(0, "test"))
    warped = kind.apply(images(), parameters)
    assert warped.shape == (8, 1, *kind.canvas)
    assert torch.equal(kind.apply(images(), parameters), warped)


@every_kind
def test_every_channel_gets_the_same_warp(kind: Distortion) -> None:
    parameters, colour = kind.draw(8, named_generator(0, "test")), images(channels=3)
    warped = kind.apply(colour, parameters)
    assert torch.equal(warped[:, 1:2], kind.apply(colour[:, 1:2].contiguous(), parameters))


@every_kind
def test_a_batch_equals_its_images_one_by_one(kind: Distortion) -> None:
    parameters = kind.draw(8, named_generator(0, "test"))
    single = [kind.apply(images()[i : i + 1], {k: v[i : i + 1] for k, v in parameters.items()}) for i in range(8)]
    # Not bit for bit: a matrix product of another shape adds in another order.
    torch.testing.assert_close(torch.cat(single), kind.apply(images(), parameters), atol=1e-4, rtol=0)


@every_kind
def test_apply_is_linear_in_the_image_and_outside_lies_zero(kind: Distortion) -> None:
    parameters = kind.draw(8, named_generator(0, "test"))
    assert not kind.apply(torch.zeros(8, 1, 28, 26), parameters).any()
    doubled = kind.apply(2 * images(), parameters)
    torch.testing.assert_close(doubled, 2 * kind.apply(images(), parameters), atol=1e-6, rtol=0)


@every_kind
def test_the_grid_takes_every_pixel_centre_where_to_input_takes_it(kind: Distortion, frozen: Frozen) -> None:
    parameters = {name: value.double() for name, value in frozen(kind, 8).items()}
    centres = regular_grid(kind.canvas, dtype=torch.float64).reshape(1, -1, 2).expand(8, -1, -1)
    expected = kind.to_input(centres, parameters).reshape(8, *kind.canvas, 2)
    # A spline's grid is of rounded numbers; what lies beyond a horizon is sent far outside, on any side.
    torch.testing.assert_close(kind.grid(parameters), expected, atol=1e-6, rtol=0)


@every_kind
def test_bytes_are_those_of_apply_rounded(kind: Distortion) -> None:
    parameters, levels = kind.draw(8, named_generator(0, "test")), (images(channels=2) * 255).to(torch.uint8)
    rendered = kind.render(levels, parameters)
    assert rendered.dtype == torch.uint8
    expected = 255 * kind.apply(levels / 255, parameters)
    # Half a level by rounding; the rest is float32, in which a grid may lie 1e-4 pixels off.
    assert (rendered.float() - expected).abs().max() < 0.5 + 255 * 1e-4


@every_kind
def test_a_smaller_frozen_draw_begins_a_larger_one(kind: Distortion, frozen: Frozen) -> None:
    large = frozen(kind, 3000)
    for n in (1, 10, BLOCK, BLOCK + 1, 3000):
        small = frozen(kind, n)
        assert small.keys() == large.keys()
        assert all(torch.equal(small[name], large[name][:n]) for name in large)


@every_kind
def test_a_frozen_draw_for_no_images_is_empty(kind: Distortion, frozen: Frozen) -> None:
    """As for a validation split of nothing, which the configuration allows."""
    shapes = {name: (0, *value.shape[1:]) for name, value in frozen(kind, 1).items()}
    assert {name: tuple(value.shape) for name, value in frozen(kind, 0, 0, "validation").items()} == shapes


@every_kind
def test_frozen_draws_differ_between_seeds_splits_and_blocks(kind: Distortion, frozen: Frozen) -> None:
    draws = [frozen(kind, 10), frozen(kind, 10, 1), frozen(kind, 10, 0, "train")]
    draws.append({name: value[BLOCK:] for name, value in frozen(kind, BLOCK + 10).items()})
    for i, first in enumerate(draws):
        for second in draws[:i]:
            assert not all(torch.equal(first[name], second[name]) for name in first)


def test_a_frozen_draw_has_the_same_bits_in_a_fresh_process(frozen: Frozen) -> None:
    code = (
        "import sys; from stn_cli.distortions.distortion import draw_frozen; "
        "from stn_cli.distortions.elastic import Elastic; "
        "e = Elastic(in_size=(28, 26), canvas=(30, 28), scale=(0.75, 1.0), control_point_sigma=1.5); "
        "d = draw_frozen(lambda start, generator: e.draw(1024, generator), 9, 3, 'test'); "
        "sys.stdout.buffer.write(b''.join(d[name].numpy().tobytes() for name in sorted(d)))"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    here = frozen(KINDS["E"], 9, 3)
    assert there == b"".join(here[name].numpy().tobytes() for name in sorted(here))
