import pytest

from stn_cli.config import RunConfig
from stn_cli.config_distortion import TCConfig, VolumeConfig
from stn_cli.distortions.build import build_clutter, build_distortion, build_extrusion
from stn_cli.distortions.chain import Chain
from stn_cli.distortions.distortion import Distortion
from stn_cli.distortions.elastic import Elastic
from stn_cli.distortions.placement import Placement
from stn_cli.distortions.projective import Projective
from stn_cli.distortions.similarity import Similarity
from stn_cli.names import DISTORTIONS

WHAT_IS_BUILT = {
    "none": type(None),
    "R": Similarity,
    "RTS": Similarity,
    "P": Projective,
    "E": Elastic,
    "T": Placement,
    "TC": Placement,
    "addition": Similarity,
    "volume": type(None),
    "chain": Chain,
}


def built(in_size: tuple[int, int] = (28, 28), **section: object) -> Distortion | None:
    """What the distortion section of a run's configuration builds."""
    return build_distortion(RunConfig.model_validate({"distortion": section}).distortion, in_size)


@pytest.mark.parametrize("kind", DISTORTIONS)
def test_every_kind_is_built_with_its_defaults_alone(kind: str) -> None:
    stages = {"stages": ({"kind": "R"}, {"kind": "E"})} if kind == "chain" else {}
    assert type(built(kind=kind, **stages)) is WHAT_IS_BUILT[kind]


def test_settings_arrive_where_they_belong() -> None:
    r = built((20, 24), kind="R", canvas=30, rotation=(-10, 20))
    assert isinstance(r, Similarity)
    sizes = {"in_size": (20, 24), "canvas": (30, 30)}
    assert vars(r) == sizes | {"rotation": (-10, 20), "scale": (1, 1), "place": False}
    rts = built((20, 24), kind="rts", canvas=30, rotation=(-10, 20), scale=(0.5, 2))
    assert isinstance(rts, Similarity)
    assert vars(rts) == sizes | {"rotation": (-10, 20), "scale": (0.5, 2), "place": True}
    addition = built((20, 24), kind="addition", canvas=30, rotation=(-10, 20), scale=(0.5, 2))
    assert isinstance(addition, Similarity)
    assert vars(addition) == vars(rts)
    p = built((20, 24), kind="P", canvas=30, scale=(0.5, 0.6), corner_sigma=7)
    assert isinstance(p, Projective)
    assert (p.in_size, p.canvas, p.scale, p.corner_sigma) == ((20, 24), (30, 30), (0.5, 0.6), 7)
    e = built((20, 24), kind="E", canvas=30, scale=(0.5, 0.6), control_point_sigma=2)
    assert isinstance(e, Elastic)
    assert (e.in_size, e.canvas, e.scale, e.control_point_sigma) == ((20, 24), (30, 30), (0.5, 0.6), 2)
    for kind in ("T", "TC"):
        t = built((20, 24), kind=kind, canvas=30)
        assert isinstance(t, Placement)
        assert vars(t) == sizes
    clutter = build_clutter(TCConfig(pieces=3, piece_size=5), (20, 24), (30, 30))
    assert vars(clutter) == sizes | {"pieces": 3, "side": 5}
    volume = build_extrusion(VolumeConfig(canvas=40, depth=2.5, rotation=(-10, 20)), (20, 24), rts)
    found = {"in_size": volume.in_size, "side": volume.side, "depth": volume.depth, "rotation": volume.rotation}
    assert found == {"in_size": (20, 24), "side": 40, "depth": 2.5, "rotation": (-10, 20)}
    assert volume.warp is rts


@pytest.mark.parametrize(
    ("kind", "side"), [("R", 28), ("P", 28), ("E", 28), ("RTS", 42), ("addition", 42), ("T", 84), ("TC", 60)]
)
@pytest.mark.parametrize("in_size", [(28, 28), (56, 84), (1, 9), (27, 29), (448, 448)])
def test_canvases_are_the_papers_in_proportion_to_the_image_rounded_up(
    kind: str, side: int, in_size: tuple[int, int]
) -> None:
    distortion = built(in_size, kind=kind)
    assert distortion is not None
    for canvas, image in zip(distortion.canvas, in_size, strict=True):
        assert 0 <= canvas - image * side / 28 < 1


def test_every_stage_of_a_chain_takes_the_canvas_of_the_one_before() -> None:
    kinds = ("RTS", "R", "E", "P", "T", "TC")
    chain = built((28, 26), kind="chain", stages=tuple({"kind": kind} for kind in kinds))
    assert isinstance(chain, Chain)
    assert [type(stage) for stage in chain.stages] == [WHAT_IS_BUILT[kind] for kind in kinds]
    sizes = [chain.in_size, *(stage.canvas for stage in chain.stages)]
    assert sizes[0] == (28, 26)
    assert [stage.in_size for stage in chain.stages] == sizes[:-1]
    assert chain.canvas == sizes[-1]


@pytest.mark.parametrize(("kinds", "left"), [(("R", "volume"), Similarity), (("R", "E", "volume"), Chain)])
def test_a_volume_at_the_end_of_a_chain_is_no_stage_of_its_own(kinds: tuple[str, ...], left: type) -> None:
    assert type(built(kind="chain", stages=tuple({"kind": kind} for kind in kinds))) is left


@pytest.mark.parametrize(("width", "depth"), [(28, 7), (20, 5), (8, 2), (1, 1)])
def test_a_digit_is_a_quarter_as_deep_as_it_is_wide(width: int, depth: int) -> None:
    assert build_extrusion(VolumeConfig(), (28, width), None).depth == depth
