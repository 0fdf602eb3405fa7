import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from stn_cli.geometry.sampling import sample
from stn_cli.models.grid_generators import TRANSFORMS, AffineGrid
from stn_cli.models.localisation import convolutional_localisation, fully_connected_localisation
from stn_cli.models.network import initialise
from stn_cli.models.spatial_transformer import SpatialTransformer

every_transform = pytest.mark.parametrize("name", TRANSFORMS)
AWAY = torch.tensor([1.0, 0.0, 9.0, 0.0, 1.0, 0.0])  # affine θ that reads nine half widths to the right


class Constant(nn.Module):
    """A localisation network that says the same of every image, and remembers what it saw."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.theta.expand(len(images), -1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def wobbly(name: str, size: tuple[int, int]) -> SpatialTransformer:
    generator = TRANSFORMS[name](size)
    theta = generator.identity + 0.2 * random(len(generator.identity), seed=1)
    return SpatialTransformer(Constant(theta), generator)


@every_transform
def test_a_warp_is_the_image_read_at_the_grid_of_theta(name: str) -> None:
    transformer, images = wobbly(name, (28, 31)), random(2, 3, 28, 31)
    theta, grid, output = transformer(images)
    assert torch.equal(theta, transformer.localisation.theta.expand(2, -1))
    assert torch.equal(grid, transformer.grid_generator(theta))
    assert torch.equal(output, sample(images, grid))


@every_transform
def test_grid_and_output_keep_their_float32_bits_under_bf16(name: str) -> None:
    transformer, images = wobbly(name, (60, 60)), random(2, 1, 60, 60)
    expected = transformer(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = transformer(images)
        half = transformer(images.bfloat16())
    for before, under in zip(expected, found, strict=True):
        assert under.dtype == torch.float32
        assert torch.equal(under, before)
    assert torch.equal(half.grid, expected.grid)
    assert half.output.dtype == torch.float32


def test_the_localisation_network_runs_in_bf16_up_to_theta() -> None:
    localisation = fully_connected_localisation(1, (28, 28), torch.zeros(6))
    transformer, images = SpatialTransformer(localisation, AffineGrid((28, 28))), random(2, 1, 28, 28)
    nn.init.normal_(localisation[-1].weight, std=0.01, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta, grid, _ = transformer(images)
        assert localisation[:-1](images).dtype == torch.bfloat16
    assert not torch.equal(theta, theta.bfloat16().float())
    assert torch.equal(grid, transformer.grid_generator(theta))


def test_the_localisation_network_sees_the_view_and_the_sampler_reads_the_images() -> None:
    transformer, images, view = wobbly("affine", (28, 28)), random(2, 1, 28, 28), random(2, 1, 28, 28, seed=2)
    assert torch.equal(transformer(images, view=view).output, transformer(images).output)
    transformer(images, view=view)
    assert transformer.localisation.seen is view
    transformer(images)
    assert transformer.localisation.seen is images


def test_outside_of_the_image_lies_the_border() -> None:
    images = random(1, 1, 8, 8)
    black = SpatialTransformer(Constant(AWAY), AffineGrid((8, 8)))
    edge = SpatialTransformer(Constant(AWAY), AffineGrid((8, 8)), border="border")
    assert not black(images).output.any()
    assert torch.equal(edge(images).output, images[..., -1:].expand(-1, -1, -1, 8))


def test_the_output_may_have_another_size() -> None:
    images = random(2, 3, 40, 20)
    theta, grid, output = SpatialTransformer(Constant(AffineGrid((1, 1)).identity), AffineGrid((20, 10)))(images)
    assert theta.shape == (2, 6)
    assert grid.shape == (2, 20, 10, 2)
    torch.testing.assert_close(output, nn.functional.avg_pool2d(images, 2), atol=1e-5, rtol=0)


@every_transform
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_gradients_reach_every_part_of_the_localisation_network(name: str, precision: str) -> None:
    generator = TRANSFORMS[name]((28, 28))
    localisation = convolutional_localisation(1, (28, 28), generator.identity)
    initialise(localisation, torch.Generator().manual_seed(0))
    with torch.no_grad():
        localisation[-1].weight.normal_(std=1e-3, generator=torch.Generator().manual_seed(1))
    transformer, images = SpatialTransformer(localisation, generator), random(4, 1, 28, 28).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        output = transformer(images).output
    (output * random(4, 1, 28, 28, seed=3)).sum().backward()
    for parameter in localisation.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    assert images.grad is not None
    assert images.grad.any()


def test_theta_is_not_rounded_to_bf16() -> None:
    """The layer that gives θ leaves autocast: rounding θ alone would move a grid by up to 0.07 px at 28 px."""
    generator = AffineGrid((28, 28))
    localisation = convolutional_localisation(1, (28, 28), generator.identity)
    torch.nn.init.normal_(localisation[-1].weight, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        theta = SpatialTransformer(localisation, generator)(torch.rand(16, 1, 28, 28)).theta
    assert theta.dtype == torch.float32
    assert not torch.equal(theta, theta.bfloat16().float())


@pytest.mark.parametrize(("in_size", "out_size", "average"), [((28, 28), (14, 14), (2, 2)), ((23, 40), (9, 7), (3, 6))])
def test_averaged_samples_are_those_that_scipy_reads(
    in_size: tuple[int, int], out_size: tuple[int, int], average: tuple[int, int]
) -> None:
    """Each output pixel is the mean of `average` readings, evenly spaced within it, pixel by pixel."""
    theta, images = torch.tensor([0.9, 0.3, 0.1, -0.2, 0.8, -0.15]), random(1, 2, *in_size)
    generator = AffineGrid((out_size[0] * average[0], out_size[1] * average[1]))
    warp = SpatialTransformer(Constant(theta), generator, average=average)(images)
    assert warp.output.shape == (1, 2, *out_size)
    expected = np.zeros((2, *out_size))
    for row in range(out_size[0]):
        for column in range(out_size[1]):
            for i in range(average[0]):
                for j in range(average[1]):
                    y = 2 * (row + (i + 0.5) / average[0]) / out_size[0] - 1
                    x = 2 * (column + (j + 0.5) / average[1]) / out_size[1] - 1
                    read = theta.view(2, 3).double().numpy() @ [x, y, 1]
                    place = [[((read[k] + 1) * side - 1) / 2] for k, side in ((1, in_size[0]), (0, in_size[1]))]
                    for channel in range(2):
                        image = images[0, channel].numpy()
                        expected[channel, row, column] += map_coordinates(image, place, order=1, mode="grid-constant")[
                            0
                        ]
    np.testing.assert_allclose(warp.output[0].detach(), expected / average[0] / average[1], atol=1e-5)


def test_stripes_narrower_than_an_output_pixel_alias_unless_averaged() -> None:
    stripes = (torch.arange(32) % 4 < 2).float().expand(1, 1, 32, 32)
    identity = AffineGrid((1, 1)).identity
    plain = SpatialTransformer(Constant(identity), AffineGrid((8, 8)))(stripes).output
    averaged = SpatialTransformer(Constant(identity), AffineGrid((32, 32)), average=(4, 4))(stripes).output
    torch.testing.assert_close(averaged, torch.full((1, 1, 8, 8), 0.5), atol=1e-5, rtol=0)
    shifted = SpatialTransformer(Constant(identity + torch.tensor([0, 0, 1 / 16, 0, 0, 0])), AffineGrid((8, 8)))
    assert (plain - shifted(stripes).output).abs().max() > 0.4  # one input pixel to the side, and all is different
