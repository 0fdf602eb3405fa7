"""A digit with depth in a volume."""

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Generator, Tensor

from stn_cli.distortions.distortion import UNDONE_AT_ONCE, Distortion, Parameters
from stn_cli.distortions.draws import uniform
from stn_cli.geometry.grids import pixel_centres, regular_grid
from stn_cli.geometry.matrices import compose, rotation_about
from stn_cli.geometry.reproducible import snapped
from stn_cli.geometry.sampling import sample, sample_bytes, sample_volumes, to_bytes

SLAB_BITS = 12  # of the share of a voxel that the slab fills: with the 40 bits of the sampler it fits 53


class Extrusion:
    """Extrude a digit to a slab, turn it, and put it at a random place of a cube, wholly inside.

    `side`: of the cube in voxels. `depth`: of the slab in voxels. `rotation`: degrees, about the x, the y and the z
    axis one after another, each drawn from this range. `warp`: what distorts the digit before, or None.
    Convention: volumes are [depth, height, width], points (x, y, z), z grows away from the viewer. Depth and
    rotation are readings (R); the paper says "extruded and randomly placed". Source: appendix A.3.
    """

    def __init__(
        self,
        *,
        in_size: tuple[int, int],
        side: int,
        depth: float,
        rotation: tuple[float, float],
        warp: Distortion | None,
    ) -> None:
        self.in_size = in_size
        self.side = side
        self.depth = depth
        self.rotation = rotation
        self.warp = warp
        self._flat = rotation == (0, 0)

    def draw(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Return `rotation` [n, 3] in degrees and `place` [n, 3], −1..1 of the room there is, and the warp's own."""
        parameters = {} if self.warp is None else self.warp.draw(n, generator)
        return parameters | {
            "volume.rotation": uniform(n, self.rotation, generator, 3),
            "volume.place": uniform(n, (-1.0, 1.0), generator, 3),
        }

    def grid(self, parameters: Parameters) -> Float[Tensor, "n depth height width 3"]:
        """Return the exact output → input map: (x, y) in the image and z in the slab, each −1..1 inside."""
        plane, z = self._plane(parameters), self._z(parameters) / (self.depth / 2)
        side = (-1, self.side, self.side, self.side)
        return torch.cat([plane.expand(*side, -1), z.expand(*side)[..., None]], dim=-1)

    def apply(
        self, images: Float[Tensor, "n channels in_height in_width"], parameters: Parameters
    ) -> Float[Tensor, "n channels side side side"]:
        """Return the volumes. For training."""
        return self._in_depth(sample(images, _as_image(self._plane(parameters))), parameters)

    def render(
        self, images: UInt8[Tensor, "n channels in_height in_width"], parameters: Parameters
    ) -> UInt8[Tensor, "n channels side side side"]:
        """Return the volumes as bytes, the same on every machine. For files."""
        exact = {name: value.double() for name, value in parameters.items()}
        return to_bytes(self._in_depth(sample_bytes(images, _as_image(self._plane(exact))), exact))

    def undo(
        self, volumes: Shaped[Tensor, "n channels side side side"], parameters: Parameters
    ) -> Float[Tensor, "n channels in_height in_width"]:
        """Return the original images, read in the middle of the slab, as far as the warp has left them in view.

        Levels, of whatever type, stay what they are. A few volumes at a time are read: they may be mapped from a file.
        """
        parts: list[Tensor] = []
        for start in range(0, len(volumes), UNDONE_AT_ONCE):
            part = slice(start, start + UNDONE_AT_ONCE)
            chosen = {name: value[part].double() for name, value in parameters.items()}
            grid, seen = self._middle(chosen), volumes[part].double()
            share = self._share(chosen).expand(-1, *[self.side] * 3)[:, None]
            # Where the slab ends between two voxels, both hold a share of the digit only, and so does their mean.
            shares = sample_volumes(share, grid).clamp(min=2.0**-SLAB_BITS)
            parts.append((sample_volumes(seen, grid) / shares)[:, :, 0].float())
        return torch.cat(parts) if parts else torch.empty(0, volumes.shape[1], *self.in_size)

    def _middle(self, parameters: Parameters) -> Float[Tensor, "n 1 in_height in_width 3"]:
        """Return where in the cube the pixels of the image lie, half way through the slab."""
        back, points = self._back(parameters), regular_grid(self.in_size, dtype=torch.float64).reshape(1, -1, 2)
        height, width = self._digit_size()
        points = points.expand(len(back), -1, -1).to(back.device)
        u, v = (points if self.warp is None else self.warp.to_output(points, parameters)).unbind(dim=-1)
        u, v, shift = u * (width / 2), v * (height / 2), self._shift(parameters)
        axes = [back[:, 0, k, None] * u + back[:, 1, k, None] * v + shift[k][:, None] for k in range(3)]
        return torch.stack(axes, dim=-1).reshape(-1, 1, *self.in_size, 3) / (self.side / 2)

    def _plane(self, parameters: Parameters) -> Float[Tensor, "n planes side side 2"]:
        """Return the image's point seen at every voxel; where nothing is turned in depth, one plane serves for all."""
        u, v, _ = self._voxels(parameters)
        height, width = self._digit_size()
        points = torch.stack([u / (width / 2), v / (height / 2)], dim=-1)
        if self.warp is None:
            return points
        return self.warp.to_input(points.reshape(len(points), -1, 2), parameters).reshape(points.shape)

    def _z(self, parameters: Parameters) -> Float[Tensor, "n depths rows columns"]:
        return self._voxels(parameters)[2]

    def _in_depth(self, seen: Float[Tensor, "n channels planes_side side"], parameters: Parameters) -> Tensor:
        """Return volumes from what each voxel sees of the image."""
        return seen.reshape(*seen.shape[:2], -1, self.side, self.side) * self._share(parameters)[:, None]

    def _share(self, parameters: Parameters) -> Float[Tensor, "n depths rows columns"]:
        """Return how much of every voxel the slab fills: it ends, voxel by voxel, at half its depth."""
        return snapped((self.depth / 2 + 0.5 - self._z(parameters).abs()).clamp(0, min(1, self.depth)), SLAB_BITS)

    def _voxels(self, parameters: Parameters) -> list[Float[Tensor, "n depths rows columns"]]:
        """Return (u, v, w) of every voxel in the digit's own frame, in voxels about its centre, as far as they vary."""
        place, back = parameters["volume.place"], self._back(parameters)
        axis = pixel_centres(self.side, dtype=place.dtype, device=place.device) * (self.side / 2)
        from_centre = [axis - shift[:, None] for shift in self._shift(parameters)]
        x, y, z = from_centre[0][:, None, None, :], from_centre[1][:, None, :, None], from_centre[2][:, :, None, None]
        if self._flat:
            x, y = (part.expand(-1, 1, self.side, self.side) for part in (x, y))
            return [x, y, z]
        rows = [[back[:, j, k, None, None, None] for k in range(3)] for j in range(3)]
        return [a * x + b * y + c * z for a, b, c in rows]

    def _shift(self, parameters: Parameters) -> list[Float[Tensor, "n"]]:
        """Return where the slab's centre lies relative to the cube's, (x, y, z) in voxels."""
        place, back = parameters["volume.place"], self._back(parameters)
        height, width = self._digit_size()
        shifts: list[Tensor] = []
        for k in range(3):
            # The box that holds the turned slab: column k of |back|, times the slab's extents.
            extent = back[:, 0, k].abs() * width + back[:, 1, k].abs() * height + back[:, 2, k].abs() * self.depth
            shifts.append(place[:, k] * ((self.side - extent) / 2).clamp(min=0))
        return shifts

    def _digit_size(self) -> tuple[int, int]:
        """Return (height, width) of what is extruded."""
        return self.in_size if self.warp is None else self.warp.canvas

    def _back(self, parameters: Parameters) -> Float[Tensor, "n 3 3"]:
        """Return the rotation output → input: undo the turn about z, then y, then x."""
        x, y, z = (-angle for angle in parameters["volume.rotation"].unbind(dim=1))
        return compose(rotation_about("x", x), compose(rotation_about("y", y), rotation_about("z", z)))


def _as_image(points: Float[Tensor, "n planes rows columns 2"]) -> Float[Tensor, "n rows_of_all columns 2"]:
    """Lay the planes of a volume below each other, so that the sampler of images reads them in one go."""
    return points.flatten(start_dim=1, end_dim=2)
