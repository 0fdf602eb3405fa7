"""From a distortion's configuration to the distortion."""

from stn_cli.config import DistortionConfig, EConfig, NoDistortion, PConfig, RConfig, RTSConfig
from stn_cli.distortions.distortion import Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity


def build_distortion(config: DistortionConfig) -> Distortion | None:
    """Return the distortion that a configuration describes, or None for images as they are."""
    match config:
        case NoDistortion():
            return None
        case RConfig(canvas=side, rotation=rotation):
            return Similarity(canvas=(side, side), rotation=rotation, scale=(1.0, 1.0), place=False)
        case RTSConfig(canvas=side, rotation=rotation, scale=scale):
            return Similarity(canvas=(side, side), rotation=rotation, scale=scale, place=True)
        case PConfig(canvas=side, scale=scale, corner_sigma=sigma):
            return Projective(canvas=(side, side), scale=scale, corner_sigma=sigma)
        case EConfig(canvas=side, scale=scale, control_point_sigma=sigma):
            return Elastic(canvas=(side, side), scale=scale, control_point_sigma=sigma)
