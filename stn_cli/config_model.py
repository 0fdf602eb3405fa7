"""The schema of a model: its classifier, and the spatial transformers before its layers (sections 3, 4.1, A.1, A.5)."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from stn_cli.config_distortion import Section
from stn_cli.names import LAYERS

MOST_TRANSFORMERS = 16
ONE, PARALLEL = "one", "parallel"  # the two kinds of items that `transformers` lists
# Widths of localisation networks: ST-FCN's and ST-CNN's (A.4), and those of SVHN's Multi on feature maps (A.5).
FCN_WIDTHS, CNN_WIDTHS, MAP_WIDTHS = (32, 32, 32), (20, 20, 20), (32, 32)

LowerName = BeforeValidator(lambda name: name.lower() if isinstance(name, str) else name)
TransformName = Annotated[Literal["attention", "similarity", "affine", "projective", "tps"], LowerName]


def _kind_alone(given: Any) -> Any:
    """Let `localisation: fcn` say the kind."""
    return {"kind": given} if isinstance(given, str) else given


def _map_place(given: Any) -> Any:
    name = given.lower() if isinstance(given, str) else given
    layers = {layer for classifier in LAYERS.values() for layer in classifier}
    if name in layers and not name.startswith("conv"):
        places = sorted(layer for layer in layers if layer.startswith("conv"))
        raise ValueError(
            f"{name} sees vectors, and a transformer needs a map. Choose from input, {', '.join(places)}, "
            f"or feed θ to the output layer with feed_theta"
        )
    return name


def _or_a_name(schema: dict[str, Any]) -> None:
    """Let editors know that the kind alone will do."""
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"enum": ["fcn", "cnn"], "type": "string"}]


class LocalisationConfig(Section):
    """The network that decides on θ; the name of a kind alone will do."""

    kind: Annotated[Literal["fcn", "cnn"] | None, LowerName] = Field(
        None, description="cnn at the input of a cnn, fcn elsewhere, unless said otherwise"
    )
    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...] | None = Field(
        None, description="of hidden layers: units of an fcn; two numbers of filters and one of units of a cnn"
    )


class TransformerConfig(Section):
    """One spatial transformer: where it stands, what it may do, and how it decides."""

    at: Annotated[Literal["input", "conv1", "conv2"], BeforeValidator(_map_place)] = Field(
        "input", description="before which layer of the classifier"
    )
    transform: TransformName = Field("affine", description="the maps it chooses from")
    out_size: tuple[Annotated[int, Field(ge=1, le=512)], Annotated[int, Field(ge=1, le=512)]] | None = Field(
        None, description="[height, width] of what it hands on; else that of what it sees"
    )
    antialias: bool = Field(False, description="where the output is smaller, sample more densely and average")
    localisation: Annotated[LocalisationConfig, BeforeValidator(_kind_alone)] = Field(
        LocalisationConfig(),  # pyright: ignore[reportCallIssue] - pydantic's positional defaults
        description="kind and widths of its localisation network",
        json_schema_extra=_or_a_name,
    )
    rate: float | None = Field(
        None, ge=0, le=100, description="learning rate of its localisation network, as a factor; else the run's"
    )
    feed_theta: bool = Field(False, description="let the output layer see θ too")


TransformersItem = Annotated[
    Annotated[TransformerConfig, Tag(ONE)] | Annotated[tuple[TransformerConfig, ...], Tag(PARALLEL)],
    Discriminator(lambda item: PARALLEL if isinstance(item, list | tuple) else ONE),
]


class ModelConfig(Section):
    """Which network."""

    name: Annotated[Literal["fcn", "cnn", "st-fcn", "st-cnn"], LowerName] = Field(
        "st-cnn", description="the classifier, st- with one spatial transformer at the input; cnn with `transformers`"
    )
    transform: TransformName | None = Field(None, description="of st-fcn and st-cnn, affine unless said otherwise")
    transformers: tuple[TransformersItem, ...] = Field(
        (), description="of fcn and cnn: one after another, those of a list in the list side by side on the same map"
    )
    parameters: int = Field(
        400_000, ge=1_000, le=100_000_000, description="learnable parameters the width is solved for"
    )
    pool: int | None = Field(
        None,
        ge=1,
        le=8,
        description="average pooling after the input's warp; else 2 for warps of 40 pixels or more, as for RTS",
    )

    @property
    def classifier(self) -> str:
        """The network that the transformers stand in: fcn or cnn."""
        return self.name.removeprefix("st-")

    @property
    def steps(self) -> list[tuple[TransformerConfig, ...]]:
        """The transformers as they follow one another, each alone or in parallel with others."""
        if self.transform is not None:
            return [(TransformerConfig.model_validate({"transform": self.transform}),)]
        return [item if isinstance(item, tuple) else (item,) for item in self.transformers]

    @property
    def label(self) -> str:
        """A short name of the whole network for folders and tables, "st-cnn-affine", "fcn-affine+affine-tps@conv2"."""
        said = [
            "+".join(one.transform for one in step) + ("" if step[0].at == "input" else f"@{step[0].at}")
            for step in self.steps
        ]
        label = "-".join([self.name, *said])
        return label if len(label) <= 60 else f"{self.name}-{sum(map(len, self.steps))}-transformers"

    def localisation_of(self, transformer: TransformerConfig) -> tuple[str, tuple[int, ...]]:
        """Return kind and widths of a localisation network, the paper's where nothing is said."""
        is_input = transformer.at == "input"
        kind = transformer.localisation.kind or ("cnn" if is_input and self.classifier == "cnn" else "fcn")
        usual = CNN_WIDTHS if kind == "cnn" else FCN_WIDTHS if is_input else MAP_WIDTHS
        return kind, usual if transformer.localisation.widths is None else transformer.localisation.widths

    @model_validator(mode="before")
    @classmethod
    def _name_the_classifier(cls, section: Any) -> Any:
        """Where transformers are listed and no name is given, they stand in a CNN."""
        if not isinstance(section, dict):
            return section
        given = cast("dict[str, Any]", section)
        if "transformers" in given and given["transformers"] is None:
            given = given | {"transformers": ()}
        return {"name": "cnn"} | given if given.get("transformers") else given

    @model_validator(mode="after")
    def _transformers_fit(self) -> Self:
        if self.name.startswith("st-"):
            if self.transformers:
                raise ValueError(f"{self.name} has one transformer already, so no transformers; use {self.classifier}")
            if self.transform is None:
                object.__setattr__(self, "transform", "affine")
        elif self.transform is not None and self.transformers:
            raise ValueError(f"each of the transformers has its own transform, so no transform {self.transform} here")
        elif self.transform is not None:
            raise ValueError(f"{self.name} has no transformer, so no transform {self.transform}; use st-{self.name}")
        for step in self.steps:
            self._check(step)
        if self.pool is not None and not any(step[0].at == "input" for step in self.steps):
            raise ValueError(f"{self.name} has no transformer at the input, so no pooling after its warp")
        if sum(map(len, self.steps)) > MOST_TRANSFORMERS:
            raise ValueError(f"a network has {MOST_TRANSFORMERS} transformers at most")
        return self

    def _check(self, step: tuple[TransformerConfig, ...]) -> None:
        if not step:
            raise ValueError("a list in transformers holds those in parallel, and one is empty")
        first, *others = step
        for other in others:
            if other.at != first.at:
                raise ValueError(f"transformers in parallel stand at one place, not at {first.at} and {other.at}")
            if other.out_size != first.out_size:
                raise ValueError(
                    f"transformers in parallel have one out_size, not {first.out_size} and {other.out_size}"
                )
        if first.at not in ("input", *LAYERS[self.classifier]):
            raise ValueError(
                f"the {self.classifier} has no {first.at}, and its layers see vectors; its transformers stand at input"
            )
        for one in step:
            kind, widths = self.localisation_of(one)
            if kind == "cnn" and len(widths) != len(CNN_WIDTHS):
                raise ValueError(
                    f"a cnn localisation network has three widths, [filters, filters, units], not {len(widths)}"
                )
