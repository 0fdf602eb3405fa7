"""Pieces of other digits on the canvas: what TC adds to T."""

import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Generator, Tensor

from stn_cli.distortions.distortion import Parameters


class Clutter:
    """Square pieces cut out of other images, laid over the canvas; where they meet ink, the brighter pixel stays.

    `pieces`: how many per canvas. `side`: of each, in pixels. Pieces come from anywhere in the other images, so many
    hold background only (a reading, R, as is the brighter pixel: the paper says "random crops"). Source: appendix A.4.
    """

    def __init__(self, *, in_size: tuple[int, int], canvas: tuple[int, int], pieces: int, side: int) -> None:
        self.in_size = in_size
        self.canvas = canvas
        self.pieces = pieces
        self.side = side

    def draw(
        self, n: int, generator: Generator, *, others: int, own: Int64[Tensor, "n"] | None
    ) -> dict[str, Int64[Tensor, "n pieces ..."]]:
        """Return `piece_image` [n, pieces], `piece_from` and `piece_to` [n, pieces, 2], (x, y) of top left corners.

        `others`: the number of images that pieces are cut from. `own`: which of them each canvas shows, so that it
        gets no piece of itself; None where it shows none of them.
        """
        image = self._corner(n, others - (own is not None), generator)
        if own is not None:
            image = image + (image >= own.to(image.device)[:, None])
        (height, width), (canvas_height, canvas_width) = self.in_size, self.canvas
        axes = [
            self._corner(n, size - self.side + 1, generator) for size in (width, height, canvas_width, canvas_height)
        ]
        return {
            "piece_image": image,
            "piece_from": torch.stack(axes[:2], dim=-1),
            "piece_to": torch.stack(axes[2:], dim=-1),
        }

    def apply(
        self,
        canvases: Shaped[Tensor, "n channels height width"],
        others: UInt8[Tensor, "m channels in_height in_width"],
        parameters: Parameters,
    ) -> Shaped[Tensor, "n channels height width"]:
        """Return the canvases with their pieces: bytes on bytes, or on floats in 0..1."""
        channels, width = canvases.shape[1], self.canvas[1]
        y, x = self._pixels(parameters["piece_from"])
        pieces = others[parameters["piece_image"][:, :, None, None], :, y, x]  # [n, pieces, side, side, channels]
        if canvases.dtype != torch.uint8:
            pieces = pieces.to(canvases.dtype) / 255
        y, x = self._pixels(parameters["piece_to"])
        place = (y * width + x).flatten(start_dim=1)[:, None].expand(-1, channels, -1)
        source = pieces.flatten(start_dim=1, end_dim=3).transpose(1, 2)
        return canvases.flatten(start_dim=2).scatter_reduce(2, place, source, "amax").reshape(canvases.shape)

    def _corner(self, n: int, count: int, generator: Generator) -> Int64[Tensor, "n pieces"]:
        return torch.randint(count, (n, self.pieces), generator=generator, device=generator.device)

    def _pixels(
        self, corner: Int64[Tensor, "n pieces 2"]
    ) -> tuple[Int64[Tensor, "n pieces side side"], Int64[Tensor, "n pieces side side"]]:
        """Return the (y, x) of every pixel of the pieces whose top left corners lie at `corner`."""
        step = torch.arange(self.side, device=corner.device)
        x, y = corner[..., 0, None, None] + step, corner[..., 1, None, None] + step[:, None]
        shape = (*corner.shape[:2], self.side, self.side)
        return y.expand(shape), x.expand(shape)
