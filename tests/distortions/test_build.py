import pytest

from stn_cli.config import RunConfig
from stn_cli.distortions.build import build_distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.names import DISTORTIONS


def built(**section: object) -> object:
    """What the distortion section of a run's configuration builds."""
    return build_distortion(RunConfig.model_validate({"distortion": section}).distortion)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_every_kind_is_built_with_its_defaults_alone(kind: str) -> None:
    assert (built(kind=kind) is None) == (kind == "none")


def test_settings_arrive_where_they_belong() -> None:
    r = built(kind="R", canvas=30, rotation=(-10, 20))
    assert isinstance(r, Similarity)
    assert vars(r) == {"canvas": (30, 30), "rotation": (-10, 20), "scale": (1, 1), "place": False}
    rts = built(kind="rts", canvas=50, rotation=(-10, 20), scale=(0.5, 2))
    assert isinstance(rts, Similarity)
    assert vars(rts) == {"canvas": (50, 50), "rotation": (-10, 20), "scale": (0.5, 2), "place": True}
    p = built(kind="P", canvas=42, scale=(0.5, 0.6), corner_sigma=7)
    assert isinstance(p, Projective)
    assert vars(p) == {"canvas": (42, 42), "scale": (0.5, 0.6), "corner_sigma": 7}
    e = built(kind="E", canvas=42, scale=(0.5, 0.6), control_point_sigma=2)
    assert isinstance(e, Elastic)
    assert (e.canvas, e.scale, e.control_point_sigma) == ((42, 42), (0.5, 0.6), 2)
