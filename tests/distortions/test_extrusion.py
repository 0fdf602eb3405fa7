from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import shift as moved
from scipy.spatial.transform import Rotation

from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.extrusion import Extrusion
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.similarity import Similarity
from stn_cli.geometry.grids import pixel_centres

Frozen = Callable[..., dict[str, torch.Tensor]]
SIZE, SIDE = (11, 9), 20
CORNERS = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)


def extrusion(degrees: float = 0.0, depth: float = 3.0, side: int = SIDE, **settings) -> Extrusion:
    return Extrusion(in_size=SIZE, side=side, depth=depth, rotation=(-degrees, degrees), **{"warp": None, **settings})


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 2, *SIZE, generator=torch.Generator().manual_seed(0))


def doubled(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in parameters.items()}


def corners_in_the_cube(kind: Extrusion, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    """Where the slab's eight corners lie, in voxels about the cube's centre: the affine map of the grid, inverted."""
    grid = kind.grid(doubled(parameters))
    origin, last = grid[:, :1, :1, :1], kind.side - 1
    axes = [grid[:, :1, :1, -1:] - origin, grid[:, :1, -1:, :1] - origin, grid[:, -1:, :1, :1] - origin]
    matrix = torch.cat([axis.reshape(-1, 3, 1) / last for axis in axes], dim=2)
    return torch.linalg.solve(matrix, (CORNERS - origin.reshape(-1, 1, 3)).mT).mT - last / 2


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.0, 2.5, 0.75])
def test_a_flat_volume_is_the_digit_slice_by_slice(depth: float, frozen: Frozen) -> None:
    kind = extrusion(depth=depth)
    parameters = frozen(kind, 8)
    found = kind.apply(images(8), parameters)
    room = (np.array([*SIZE[::-1], depth]) - SIDE) / -2
    for n, (x, y, z) in enumerate(parameters["volume.place"].double().numpy() * room):
        framed = np.zeros((2, SIDE, SIDE))
        framed[:, :11, :9] = images(8)[n].double()
        corner = (0, y + (SIDE - 11) / 2, x + (SIDE - 9) / 2)
        plane = moved(framed, corner, order=1, mode="grid-constant")
        voxel = np.arange(SIDE) - (SIDE - 1) / 2  # its two ends, and how much of it lies between those of the slab
        ends = np.clip(voxel + 0.5, z - depth / 2, z + depth / 2) - np.clip(voxel - 0.5, z - depth / 2, z + depth / 2)
        np.testing.assert_allclose(found[n], plane[:, None] * ends[:, None, None], atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [0.5, 1.0, 3.0, 6.3])
def test_a_flat_volume_summed_over_its_depth_is_the_digit_times_the_depth(depth: float, frozen: Frozen) -> None:
    kind = extrusion(depth=depth)
    found = kind.apply(images(32), frozen(kind, 32)).sum(dim=(2, 3, 4))
    torch.testing.assert_close(found, depth * images(32).sum(dim=(2, 3)), atol=0, rtol=1e-4)


@pytest.mark.parametrize("degrees", [20.0, 90.0, 180.0])
def test_a_turned_volume_is_the_slab_read_in_space(degrees: float, frozen: Frozen) -> None:
    """The digit, piled up three voxels deep, read trilinearly where the slab was turned about x, then y, then z."""
    kind = extrusion(degrees)
    parameters = frozen(kind, 16)
    slab = images(16)[:, :, None].expand(-1, -1, 3, -1, -1).double()
    turn = Rotation.from_euler("xyz", parameters["volume.rotation"].double(), degrees=True).as_matrix()
    axis = pixel_centres(SIDE, dtype=torch.float64) * SIDE / 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    shift = corners_in_the_cube(kind, parameters).mean(dim=1)
    voxels = torch.stack([x, y, z], dim=-1).reshape(1, -1, 3) - shift[:, None]
    grid = voxels @ torch.from_numpy(turn) / (torch.tensor([*SIZE[::-1], 3]) / 2)  # v·R is R⁻¹v
    expected = F.grid_sample(slab, grid.reshape(16, SIDE, SIDE, SIDE, 3), align_corners=False)
    torch.testing.assert_close(kind.apply(images(16), parameters), expected.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(kind.grid(doubled(parameters)).flatten(1, 3), grid, atol=1e-9, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 20.0, 180.0])
def test_the_slab_lies_wholly_inside_the_cube_and_uses_all_of_the_room(degrees: float, frozen: Frozen) -> None:
    kind = extrusion(degrees)
    parameters = frozen(kind, 256)
    corners = corners_in_the_cube(kind, parameters)
    assert corners.abs().max() <= SIDE / 2 + 1e-5
    sign = parameters["volume.place"].sign()
    at_the_walls = corners_in_the_cube(kind, parameters | {"volume.place": sign})
    reach = (at_the_walls * sign[:, None]).amax(dim=1)
    torch.testing.assert_close(reach, torch.full_like(reach, SIDE / 2), atol=1e-5, rtol=0)


def test_a_digit_larger_than_the_cube_lies_in_its_middle(frozen: Frozen) -> None:
    kind = extrusion(side=8, depth=10.0)
    assert not corners_in_the_cube(kind, frozen(kind, 8)).mean(dim=1).abs().gt(1e-9).any()


def test_turned_by_nothing_is_flat(frozen: Frozen) -> None:
    flat, turned = extrusion(), extrusion(30.0)
    parameters = frozen(flat, 8)
    assert not parameters["volume.rotation"].any()
    torch.testing.assert_close(turned.apply(images(8), parameters), flat.apply(images(8), parameters))
    torch.testing.assert_close(turned.grid(parameters), flat.grid(parameters))
    levels = (255 * images(8)).to(torch.uint8)
    assert torch.equal(turned.render(levels, parameters), flat.render(levels, parameters))


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_bytes_are_those_of_apply_rounded(degrees: float, frozen: Frozen) -> None:
    kind, levels = extrusion(degrees), (255 * images(8)).to(torch.uint8)
    parameters = frozen(kind, 8)
    error = kind.render(levels, parameters) - 255 * kind.apply(levels / 255, parameters)
    assert error.abs().max() < 0.5 + 255 * 2e-4  # the depth is rounded to 2⁻¹² of a voxel


WARPS = {
    "RTS": Similarity(in_size=SIZE, canvas=(14, 16), rotation=(-45.0, 45.0), scale=(0.7, 1.0), place=True),
    "E": Elastic(in_size=SIZE, canvas=(12, 10), scale=(0.75, 1.0), control_point_sigma=0.5),
    "T": Placement(in_size=SIZE, canvas=(14, 12)),
}


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS)
def test_a_digit_is_distorted_before_it_is_extruded(warp: Similarity | Elastic | Placement, frozen: Frozen) -> None:
    """In the middle of a cube whose voxels lie as the pixels of the warp's canvas do, a slice is the digit."""
    kind = extrusion(warp=warp)
    parameters = frozen(kind, 8) | {"volume.place": torch.zeros(8, 3)}
    middle = kind.apply(images(8), parameters)[:, :, SIDE // 2]
    top, left = ((SIDE - size) // 2 for size in warp.canvas)
    found = middle[:, :, top : top + warp.canvas[0], left : left + warp.canvas[1]]
    torch.testing.assert_close(found, warp.apply(images(8), parameters), atol=1e-4, rtol=0)


@pytest.mark.parametrize("depth", [0.5, 1.0, 2.3, 3.0])
def test_a_flat_volume_gives_its_digit_back_whatever_the_depth(depth: float, frozen: Frozen) -> None:
    kind = Extrusion(in_size=(10, 8), side=SIDE, depth=depth, rotation=(0.0, 0.0), warp=None)
    middle = frozen(kind, 8) | {"volume.place": torch.zeros(8, 3)}  # there the voxels lie as the pixels do
    whole = torch.rand(8, 2, 10, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kind.undo(kind.apply(whole, middle), middle), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_the_middle_of_the_slab_is_where_the_map_says(degrees: float, frozen: Frozen) -> None:
    """The volume that holds the map itself, undone, tells for each pixel of the image which of its points was read."""
    kind = extrusion(degrees)
    parameters = frozen(kind, 8)
    inside = kind._share(doubled(parameters)).expand(-1, SIDE, SIDE, SIDE)[:, None]
    read = kind.undo(kind.grid(doubled(parameters)).permute(0, 4, 1, 2, 3) * inside, parameters)
    y, x = (pixel_centres(side) for side in SIZE)
    expected = torch.stack([x.expand(SIZE), y[:, None].expand(SIZE), torch.zeros(SIZE)])
    # A voxel that the slab fills in part weighs less than it should: at 30° up to an eighth of the depth.
    torch.testing.assert_close(read[:, :2], expected[:2].expand(8, -1, -1, -1), atol=0.06 if degrees else 1e-5, rtol=0)


@pytest.mark.parametrize("warp", [None, WARPS["RTS"], WARPS["T"]], ids=["none", "RTS", "T"])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_a_smooth_digit_comes_back_from_its_volume(degrees: float, warp: Similarity | None, frozen: Frozen) -> None:
    kind = extrusion(degrees, warp=warp, side=30)
    y, x = (pixel_centres(side) for side in SIZE)
    blob = torch.exp(-4 * (x.square() + (y[:, None] - 0.2).square()))[None, None].expand(100, 1, -1, -1)
    parameters = frozen(kind, 100)
    found = kind.undo(kind.apply(blob, parameters), parameters)
    torch.testing.assert_close(found, blob, atol=0.2, rtol=0)
    assert (found - blob).abs().mean() < 0.02
    assert kind.undo(found.new_empty(0, 1, 30, 30, 30), parameters).shape == (0, 1, *SIZE)


def test_parameters_of_the_warp_stand_beside_those_of_the_volume(frozen: Frozen) -> None:
    drawn = frozen(extrusion(30.0, warp=WARPS["RTS"]), 5)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "rotation": (5,),
        "scale": (5,),
        "place": (5, 2),
        "volume.rotation": (5, 3),
        "volume.place": (5, 3),
    }
