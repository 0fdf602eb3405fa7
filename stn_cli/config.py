"""The schema of a run: every setting, its range, its default. Frozen, complete, unknown keys refused."""

import unicodedata
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stn_cli.config_distortion import DistortionConfig, RConfig, Section
from stn_cli.config_model import LowerName, ModelConfig
from stn_cli.names import DATASETS


def _canonical_dataset(name: Any) -> Any:
    """Let MNIST be mnist, and leave the case of a folder alone."""
    return name.lower() if isinstance(name, str) and name.lower() in DATASETS else name


def _writable(text: str) -> str:
    if not text or any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("is empty or holds a control character, which no file name or YAML keeps")
    return text


def _ways(text: str) -> str:
    if text != "auto" and set(text.split(",")) - {"library", "banded", "compiled"}:
        raise ValueError(f"{text!r} is neither auto, library, banded, compiled, nor some of these with commas between")
    return text


Ways = AfterValidator(_ways)
Text = Annotated[str, AfterValidator(_writable)]
DatasetName = BeforeValidator(_canonical_dataset)

# What a recipe sets where the user says nothing. `paper` is section 4.1 and appendix A.4 as stated (S), except for the
# momentum, which is not stated (R). `quick` is for people with minutes.
RECIPES: dict[str, dict[str, Any]] = {
    "quick": {
        "epochs": 6,
        "batch_size": 128,
        "learning_rate": 0.1,
        "schedule": "one-cycle",
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 5e-4,
        "clip_norm": 1.0,
        "localisation_optimiser": "adam",
        "localisation_rate": 0.03,
    },
    "paper": {
        "iterations": 150_000,
        "batch_size": 256,
        "learning_rate": 0.01,
        "schedule": "step",
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
        "clip_norm": None,
        "localisation_optimiser": "sgd",
        "localisation_rate": 1.0,
    },
}


class DataConfig(Section):
    """Which images."""

    dataset: Annotated[Text, DatasetName] = Field(
        "digits", description="a name, or a folder: what `stn distort-dataset` wrote, IDX files, or images by class"
    )
    labels: Text | None = Field(None, description="the IDX file of labels, where the dataset is one IDX file of images")
    data_dir: Text | None = Field(None, description="where datasets lie; else STN_DATA, else ./data")
    offline: bool = Field(False, description="never download")
    validation: float = Field(0.05, ge=0, le=0.5, description="share of the training images held out to choose `best`")


class TrainConfig(Section):
    """How it is trained. A recipe gives every value that is not set."""

    recipe: Annotated[Literal["quick", "paper"], LowerName] = Field("quick", description="gives what is not set")
    epochs: float | None = Field(None, gt=0, le=100_000, description="passes over the training images")
    iterations: int | None = Field(None, ge=1, le=100_000_000, description="steps; instead of epochs")
    batch_size: int = Field(ge=1, le=65_536, description="images per step")
    learning_rate: float = Field(gt=0, le=100, description="the highest of the schedule")
    schedule: Annotated[Literal["one-cycle", "step"], LowerName] = Field(
        description="step: ÷10 after each third, the paper's every 50k of 150k"
    )
    momentum: float = Field(ge=0, lt=1, description="of stochastic gradient descent, and of Adam's mean")
    nesterov: bool = Field(description="look ahead along the momentum")
    weight_decay: float = Field(ge=0, le=1, description="pull of SGD's weights towards zero")
    clip_norm: float | None = Field(gt=0, le=1e6, description="largest norm of the gradient that SGD takes")
    localisation_optimiser: Annotated[Literal["sgd", "adam"], LowerName] = Field(
        description="who trains the localisation networks: adam, without clipping and decay, or sgd as all the rest"
    )
    localisation_rate: float = Field(ge=0, le=100, description="learning rate of localisation networks, as a factor")
    bounds_penalty: float = Field(
        0, ge=0, le=1e6, description="weight in the loss of how far transformers sample beyond their image, squared"
    )
    roll_back: bool = Field(
        False, description="take a collapsed transformer back to the last sound evaluation, at a tenth of its rate"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_recipe(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        given = cast("dict[str, Any]", section)
        recipe = str(given.get("recipe", "quick")).lower()
        length = {"epochs", "iterations"}
        given = {k: v for k, v in given.items() if not (k in length and v is None)}
        defaults = RECIPES.get(recipe, RECIPES["quick"])
        return {k: v for k, v in defaults.items() if not (k in length and length & given.keys())} | given

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("set either epochs or iterations")
        return self


class RuntimeConfig(Section):
    """Where it runs."""

    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], LowerName] = Field(
        "auto", description="auto takes the fastest there is"
    )
    precision: Annotated[Literal["auto", "float32", "bf16"], LowerName] = Field(
        "auto", description="of the classifier; geometry is always float32"
    )
    convolutions: Annotated[str, LowerName, Ways] = Field(
        "auto", description="library, banded, compiled, or one per stage with commas; auto takes the fastest"
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; else what PyTorch takes")
    steps: Annotated[Literal["auto", "captured", "eager"], LowerName] = Field(
        "auto", description="of training: captured, recorded once and replayed, as auto has it, or one by one"
    )


class LogConfig(Section):
    """What is written while it runs."""

    every: int = Field(50, ge=1, le=10_000, description="steps between two lines of metrics")
    evaluations: int = Field(12, ge=1, le=100_000, description="evenly spaced over the run, the last at its end")
    images: int = Field(20, ge=0, le=256, description="fixed test images shown with their warps at every evaluation")


class RunConfig(Section):
    """One run, from the data to the log."""

    name: Text | None = Field(None, description="of the run's folder; else made from the settings")
    runs_dir: Text = Field("runs", description="where the folders of runs lie")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of weights, order, distortions and dropout")
    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue] - pydantic's positional defaults
    distortion: DistortionConfig = RConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    train: TrainConfig = Field(default_factory=lambda: TrainConfig.model_validate({}))
    runtime: RuntimeConfig = RuntimeConfig()  # pyright: ignore[reportCallIssue]
    log: LogConfig = LogConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="before")
    @classmethod
    def _no_second_distortion(cls, run: Any) -> Any:
        """A folder holds distorted images already: unless asked for, nothing is distorted again."""
        if not isinstance(run, dict):
            return run
        given = cast("dict[str, Any]", run)
        data = given.get("data")
        dataset = cast("dict[str, Any]", data).get("dataset") if isinstance(data, dict) else None
        if dataset is not None and _canonical_dataset(dataset) not in DATASETS and "distortion" not in given:
            return given | {"distortion": {"kind": "none"}}
        return given
