"""From a distortion's configuration to the distortion of one image."""

from stn_cli.config_distortion import (
    AdditionConfig,
    ChainConfig,
    DistortionConfig,
    EConfig,
    NoDistortion,
    PConfig,
    RConfig,
    RTSConfig,
    TCConfig,
    TConfig,
    VolumeConfig,
)
from stn_cli.distortions.chain import Chain
from stn_cli.distortions.clutter import Clutter
from stn_cli.distortions.distortion import Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.extrusion import Extrusion
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity

# Sides that the paper gives to canvases of 28-pixel digits; other images get them in proportion.
PAPER_SIDE, RTS_SIDE, T_SIDE, TC_SIDE = 28, 42, 84, 60


def build_distortion(  # noqa: PLR0911 - one per kind
    config: DistortionConfig, in_size: tuple[int, int]
) -> Distortion | None:
    """Return the warp that images of `in_size` go through, or None where they stay as they are.

    Of TC it is the placement, of addition that of either digit, of a volume what happens before the extrusion.
    """
    if isinstance(config, ChainConfig):
        stages: list[Distortion] = []
        for stage in config.stages:
            built = build_distortion(stage, stages[-1].canvas if stages else in_size)
            if built is not None:
                stages.append(built)
        return Chain(stages) if len(stages) > 1 else stages[0]

    def canvas(side: int | None, paper: int = PAPER_SIDE) -> tuple[int, int]:
        return (side, side) if side else (-(-in_size[0] * paper // PAPER_SIDE), -(-in_size[1] * paper // PAPER_SIDE))

    match config:
        case NoDistortion() | VolumeConfig():
            return None
        case RConfig(rotation=rotation):
            return Similarity(
                in_size=in_size, canvas=canvas(config.canvas), rotation=rotation, scale=(1.0, 1.0), place=False
            )
        case RTSConfig(rotation=rotation, scale=scale) | AdditionConfig(rotation=rotation, scale=scale):
            return Similarity(
                in_size=in_size, canvas=canvas(config.canvas, RTS_SIDE), rotation=rotation, scale=scale, place=True
            )
        case PConfig(scale=scale, corner_sigma=sigma):
            return Projective(in_size=in_size, canvas=canvas(config.canvas), scale=scale, corner_sigma=sigma)
        case EConfig(scale=scale, control_point_sigma=sigma):
            return Elastic(in_size=in_size, canvas=canvas(config.canvas), scale=scale, control_point_sigma=sigma)
        case TConfig():
            return Placement(in_size=in_size, canvas=canvas(config.canvas, T_SIDE))
        case TCConfig():
            return Placement(in_size=in_size, canvas=canvas(config.canvas, TC_SIDE))


def build_clutter(config: TCConfig, in_size: tuple[int, int], canvas: tuple[int, int]) -> Clutter:
    """Return the pieces that lie on a canvas beside the image."""
    return Clutter(in_size=in_size, canvas=canvas, pieces=config.pieces, side=config.piece_size)


def build_extrusion(config: VolumeConfig, in_size: tuple[int, int], warp: Distortion | None) -> Extrusion:
    """Return the way into a volume for images of `in_size` that went through `warp`."""
    depth = config.depth or float(max(1, round(in_size[1] / 4)))
    return Extrusion(in_size=in_size, side=config.canvas, depth=depth, rotation=config.rotation, warp=warp)
