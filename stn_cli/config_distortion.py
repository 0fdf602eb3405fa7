"""The schema of a distortion: its kinds, their ranges, the paper's values as defaults (sections 4.1, A.1 to A.4)."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stn_cli.names import DISTORTIONS


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]:g} lies above the upper bound {bounds[1]:g}")
    return bounds


def _with_canonical_kind(section: Any) -> Any:
    """Let the kind be written in any case, and a missing one be R, or a chain where there are stages."""
    if not isinstance(section, dict):
        return section
    given = cast("dict[str, Any]", section)
    kind = given.get("kind", "chain" if "stages" in given else "R")
    names = {name.lower(): name for name in DISTORTIONS}
    return given | {"kind": names.get(kind.lower(), kind) if isinstance(kind, str) else kind}


def _require_nothing(schema: dict[str, Any]) -> None:
    """Keep editors that check a config against the JSON schema from asking for what the recipe gives."""
    schema.pop("required", None)


Ordered = AfterValidator(_ordered)
Angle = Annotated[float, Field(ge=-360, le=360)]
Factor = Annotated[float, Field(ge=0.05, le=4)]
Degrees = Annotated[tuple[Angle, Angle], Ordered, Field(description="lowest and highest, clockwise on the screen")]
Scale = Annotated[tuple[Factor, Factor], Ordered, Field(description="lowest and highest, relative to the original")]
Canvas = Annotated[
    Annotated[int, Field(ge=8, le=512)] | None,
    Field(description="side of the distorted image in pixels; else the paper's, in proportion to the image"),
]


class Section(BaseModel):
    """A part of the configuration: frozen, finite numbers only, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_require_nothing)


class NoDistortion(Section):
    """Images as they are."""

    kind: Literal["none"] = "none"


class RConfig(Section):
    """R: rotation."""

    kind: Literal["R"] = "R"
    canvas: Canvas = None
    rotation: Degrees = (-90.0, 90.0)


class RTSConfig(Section):
    """RTS: rotation, scale and a random place."""

    kind: Literal["RTS"] = "RTS"
    canvas: Canvas = None
    rotation: Degrees = (-45.0, 45.0)
    scale: Scale = (0.7, 1.2)


class PConfig(Section):
    """P: projective."""

    kind: Literal["P"] = "P"
    canvas: Canvas = None
    scale: Scale = (0.75, 1.0)
    corner_sigma: float = Field(5.0, ge=0, le=100, description="pixels")


class EConfig(Section):
    """E: elastic, a thin plate spline with 16 control points."""

    kind: Literal["E"] = "E"
    canvas: Canvas = None
    scale: Scale = (0.75, 1.0)
    control_point_sigma: float = Field(1.5, ge=0, le=100, description="pixels")


class TConfig(Section):
    """T: a random place."""

    kind: Literal["T"] = "T"
    canvas: Canvas = None


class TCConfig(Section):
    """TC: a random place among pieces of other digits."""

    kind: Literal["TC"] = "TC"
    canvas: Canvas = None
    pieces: int = Field(6, ge=0, le=1000, description="of other training images")
    piece_size: int = Field(6, ge=1, le=512, description="side of a piece in pixels")


class AdditionConfig(Section):
    """Addition: two digits in two channels, each under its own RTS; the class is their sum."""

    kind: Literal["addition"] = "addition"
    canvas: Canvas = None
    rotation: Degrees = (-45.0, 45.0)
    scale: Scale = (0.7, 1.2)


class VolumeConfig(Section):
    """Volume: an extruded digit at a random place in a cube."""

    kind: Literal["volume"] = "volume"
    canvas: int = Field(60, ge=8, le=256, description="side of the cube in voxels")
    depth: float | None = Field(None, ge=0.5, le=256, description="of the digit in voxels; else a quarter of its width")
    rotation: Degrees = (0.0, 0.0)


StageConfig = Annotated[
    RConfig | RTSConfig | PConfig | EConfig | TConfig | TCConfig | AdditionConfig | VolumeConfig,
    Field(discriminator="kind"),
    BeforeValidator(_with_canonical_kind),
]


class ChainConfig(Section):
    """Chain: distortions one after another."""

    kind: Literal["chain"] = "chain"
    stages: tuple[StageConfig, ...] = Field(
        description="each on the canvas of the one before", json_schema_extra={"minItems": 2, "maxItems": 8}
    )

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if not 2 <= len(self.stages) <= 8:
            raise ValueError(f"a chain has two to eight stages, not {len(self.stages)}")
        for stage in self.stages[:-1]:
            if isinstance(stage, TCConfig | AdditionConfig | VolumeConfig):
                raise ValueError(f"{stage.kind} can only be the last of a chain")
        return self


DistortionConfig = Annotated[
    NoDistortion
    | RConfig
    | RTSConfig
    | PConfig
    | EConfig
    | TConfig
    | TCConfig
    | AdditionConfig
    | VolumeConfig
    | ChainConfig,
    Field(discriminator="kind"),
    BeforeValidator(_with_canonical_kind),
]
