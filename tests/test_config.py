"""The schema of a run: its ranges, its choices, its recipes, and what it refuses."""

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from stn_cli import names
from stn_cli.config import RECIPES, ModelConfig, RunConfig

SCHEMA = RunConfig.model_json_schema()
KINDS = SCHEMA["properties"]["distortion"]["discriminator"]["mapping"]


def settings() -> Iterator[tuple[tuple[str, ...], str | None, dict[str, Any]]]:
    """Every setting once per section it stands in: its path, the kind of distortion it needs, its JSON schema."""
    for section, schema in SCHEMA["properties"].items():
        definitions = {None: schema["$ref"]} if "$ref" in schema else KINDS if "discriminator" in schema else None
        if definitions is None:
            yield (section,), None, schema
            continue
        for kind, reference in definitions.items():
            for key, inner in SCHEMA["$defs"][reference.rpartition("/")[2]]["properties"].items():
                yield (section, key), kind, inner


def build(path: tuple[str, ...], value: Any, kind: str | None = None) -> RunConfig:
    section = {path[-1]: value} | ({"kind": kind} if kind else {})
    if str(section.get("kind")).lower() == "chain":  # the one kind that is nothing by itself
        section = {"stages": ({"kind": "R"}, {"kind": "E"})} | section
    return RunConfig.model_validate({path[0]: section} if len(path) > 1 else section)


def read(config: RunConfig, path: tuple[str, ...]) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value


def choices(schema: dict[str, Any]) -> list[str]:
    return next((choice["enum"] for choice in schema.get("anyOf", [schema]) if "enum" in choice), [])


SETTINGS = list(settings())
CHOICES = {".".join(path): choices(schema) for path, _, schema in SETTINGS if choices(schema)}


@pytest.mark.parametrize(
    ("setting", "listed"),
    [
        ("model.name", names.MODELS),
        ("model.transform", names.TRANSFORMS),
        ("train.recipe", names.RECIPES),
        ("runtime.device", names.DEVICES),
        ("runtime.precision", names.PRECISIONS),
    ],
)
def test_the_listed_names_are_the_choices_of_the_schema(setting: str, listed: tuple[str, ...]):
    assert CHOICES[setting] == list(listed)


def test_the_listed_distortions_and_recipes_are_those_there_are():
    assert sorted(KINDS) == sorted(names.DISTORTIONS)
    assert list(RECIPES) == list(names.RECIPES)
    assert RunConfig().data.dataset in names.DATASETS


def test_every_choice_may_be_written_in_any_case():
    rng = random.Random(0)

    def shaken(name: str) -> str:
        return "".join(rng.choice([letter.lower(), letter.upper()]) for letter in name)

    written = [(setting, name) for setting, listed in CHOICES.items() for name in listed]
    written += [("distortion.kind", kind) for kind in names.DISTORTIONS]
    written += [("data.dataset", name) for name in names.DATASETS]
    for setting, name in written:
        path = tuple(setting.split("."))
        for text in (name, name.upper(), name.lower(), name.title(), shaken(name)):
            assert read(build(path, text), path) == name


def test_what_is_written_for_a_recipe_in_capitals_is_that_recipe():
    assert build(("train", "recipe"), "PAPER") == build(("train", "recipe"), "paper")


def test_the_json_schema_is_json_and_complete():
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA

    def walk(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            yield schema
        for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            yield from walk(inner)

    for schema in walk(SCHEMA):
        if isinstance(schema.get("$ref"), str):
            assert schema["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]
        if isinstance(schema.get("type"), str):
            assert schema["type"] in {"object", "array", "string", "number", "integer", "boolean", "null"}
        assert "required" not in schema, "an editor would ask for what the recipe gives"
    for section in [SCHEMA, *SCHEMA["$defs"].values()]:
        assert section["description"]
        assert section["additionalProperties"] is False
    undescribed = [path for path, _, schema in SETTINGS if "const" not in schema and not schema.get("description")]
    assert not undescribed


def test_every_default_lies_in_its_own_range():
    config = RunConfig()
    assert RunConfig.model_validate(config.model_dump()) == config
    for kind in KINDS:
        config = build(("distortion", "kind"), kind)
        assert RunConfig.model_validate(config.model_dump()) == config


BOUNDED = [
    pytest.param(path, kind, bounds, schema, id=".".join([*path, *([kind] if kind else [])]))
    for path, kind, schema in SETTINGS
    for bounds in schema.get("anyOf") or schema.get("prefixItems", [schema])[:1]
    if bounds["type"] in ("number", "integer")
]


@pytest.mark.parametrize(("path", "kind", "bounds", "schema"), BOUNDED)
def test_every_number_has_two_bounds_and_keeps_to_them(
    path: tuple[str, ...], kind: str | None, bounds: dict[str, Any], schema: dict[str, Any]
):
    low, high = (bounds.get(f"{end}imum", bounds.get(f"exclusive{end.title()}imum")) for end in ("min", "max"))
    step = 1 if bounds["type"] == "integer" else 1e-6
    inside = [low + step, high - step]
    outside = [low - step, high + step, math.nan, math.inf, -math.inf, -1e9, 1e18, "nan", "inf", "", "x"]
    (inside if "minimum" in bounds else outside).append(low)
    (inside if "maximum" in bounds else outside).append(high)
    outside += [] if {"type": "null"} in schema.get("anyOf", []) else [None]
    pair = "prefixItems" in schema
    for number in inside:
        value = (number, number) if pair else number
        assert read(build(path, value, kind), path) == value
    for number in outside:
        with pytest.raises(ValidationError, match=path[-1]):
            build(path, (number, number) if pair else number, kind)


@pytest.mark.parametrize("value", [[30, 10], [10], [], [1, 2, 3], 5, None, "1,2", {"a": 1, "b": 2}])
def test_a_range_is_two_ordered_numbers(value: Any):
    with pytest.raises(ValidationError, match="rotation"):
        build(("distortion", "rotation"), value)


def test_everything_is_frozen():
    config = RunConfig()
    for section in (config, *(part for part in dict(config).values() if hasattr(part, "model_fields_set"))):
        for name in type(section).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, name, getattr(section, name))


def test_the_paper_recipe_is_the_papers():
    train = build(("train", "recipe"), "paper").train
    assert train.model_dump() == {
        "recipe": "paper",
        "epochs": None,
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
        "bounds_penalty": 0,
        "roll_back": False,
    }


@pytest.mark.parametrize("recipe", names.RECIPES)
def test_a_recipe_fills_only_what_is_not_set(recipe: str):
    others = {
        "batch_size": 3,
        "learning_rate": 0.25,
        "momentum": 0.5,
        "nesterov": not RECIPES[recipe]["nesterov"],
        "weight_decay": 0.125,
        "clip_norm": 7.0,
        "localisation_optimiser": {"sgd": "adam", "adam": "sgd"}[RECIPES[recipe]["localisation_optimiser"]],
        "localisation_rate": 0.5,
        "schedule": {"step": "one-cycle", "one-cycle": "step"}[RECIPES[recipe]["schedule"]],
    }
    plain = build(("train", "recipe"), recipe).train.model_dump()
    assert {key: plain[key] for key in RECIPES[recipe]} == RECIPES[recipe]
    for key, value in others.items():
        train = RunConfig.model_validate({"train": {"recipe": recipe, key: value}}).train
        assert train.model_dump() == plain | {key: value}


@pytest.mark.parametrize("recipe", names.RECIPES)
@pytest.mark.parametrize(("length", "other"), [("epochs", "iterations"), ("iterations", "epochs")])
def test_a_run_has_one_length(recipe: str, length: str, other: str):
    train = RunConfig.model_validate({"train": {"recipe": recipe, length: 7}}).train.model_dump()
    assert (train[length], train[other]) == (7, None)
    assert RunConfig.model_validate({"train": {"recipe": recipe, length: 7, other: None}}).train.model_dump() == train
    unset = RunConfig.model_validate({"train": {"recipe": recipe, length: None, other: None}})
    assert unset == build(("train", "recipe"), recipe)
    with pytest.raises(ValidationError, match="either epochs or iterations"):
        RunConfig.model_validate({"train": {"recipe": recipe, length: 7, other: 7}})


@pytest.mark.parametrize("name", names.MODELS)
@pytest.mark.parametrize("transform", [None, *names.TRANSFORMS])
def test_a_transform_belongs_to_a_network_with_a_transformer(name: str, transform: str | None):
    model = {"name": name, "transform": transform}
    if name.startswith("st-"):
        assert RunConfig.model_validate({"model": model}).model.transform == (transform or "affine")
    elif transform is None:
        assert RunConfig.model_validate({"model": model}).model.transform is None
    else:
        with pytest.raises(ValidationError, match=f"{name} has no transformer"):
            RunConfig.model_validate({"model": model})


def test_a_folder_is_not_distorted_again_unless_asked_for():
    assert build(("data", "dataset"), "some/Folder").distortion.kind == "none"
    assert build(("data", "dataset"), "some/Folder").data.dataset == "some/Folder"
    asked = RunConfig.model_validate({"data": {"dataset": "some/Folder"}, "distortion": {"kind": "E"}})
    assert asked.distortion.kind == "E"
    for name in names.DATASETS:
        assert build(("data", "dataset"), name.upper()).distortion == RunConfig().distortion


@pytest.mark.parametrize("path", [("name",), ("runs_dir",), ("data", "dataset"), ("data", "data_dir")])
def test_a_text_that_no_file_name_can_keep_is_refused(path: tuple[str, ...]):
    for text in ["", "a\0b", "a\nb", "\x1b[31m", "\x85", "\ud800"]:
        with pytest.raises(ValidationError, match="control character"):
            build(path, text)
    assert read(build(path, "ein Läufer 走 007="), path) == "ein Läufer 走 007="


# ---- transformers


def model(**settings: Any) -> ModelConfig:
    return RunConfig.model_validate({"model": settings}).model


def test_transformers_stand_in_a_cnn_unless_another_classifier_is_named():
    assert model(transformers=[{}]).name == "cnn"
    assert model(transformers=[{}], name="FCN").name == "fcn"
    for nothing in ([], (), None):
        assert model(transformers=nothing) == model() == model(name="st-cnn", transform="affine")


def test_what_is_not_said_of_a_transformer_is_the_papers():
    (found,) = model(transformers=[{}]).transformers
    assert found.model_dump() == {
        "at": "input",
        "transform": "affine",
        "out_size": None,
        "antialias": False,
        "localisation": {"kind": None, "widths": None},
        "rate": None,
        "feed_theta": False,
    }


def test_names_of_places_transforms_and_localisation_networks_may_be_written_in_any_case():
    (found,) = model(transformers=[{"at": "Conv2", "transform": "TPS", "localisation": "FCN"}]).transformers
    assert (found.at, found.transform, found.localisation.kind) == ("conv2", "tps", "fcn")


def test_the_choice_of_places_is_that_of_all_listed_layers_that_see_maps():
    listed = {layer for layers in names.LAYERS.values() for layer in layers if layer.startswith("conv")}
    assert set(SCHEMA["$defs"]["TransformerConfig"]["properties"]["at"]["enum"]) == {"input", *listed}
    assert SCHEMA["$defs"]["TransformerConfig"]["properties"]["transform"]["enum"] == list(names.TRANSFORMS)


def test_steps_are_the_items_each_as_a_group_and_the_short_form_is_one_step():
    both = [{"transform": "tps"}, [{}, {"transform": "attention"}]]
    assert [[one.transform for one in step] for step in model(transformers=both).steps] == [
        ["tps"],
        ["affine", "attention"],
    ]
    for name in ("fcn", "cnn"):
        short, long = model(name=f"st-{name}", transform="tps"), model(name=name, transformers=both[:1])
        assert short.steps == long.steps
        assert short.classifier == long.classifier == name
        assert model(name=name).steps == []


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"name": "cnn"}, "cnn"),
        ({"name": "st-fcn", "transform": "tps"}, "st-fcn-tps"),
        ({"name": "fcn", "transformers": [[{}, {}]]}, "fcn-affine+affine"),
        ({"transformers": [{"transform": "tps"}, {}, {"at": "conv2"}]}, "cnn-tps-affine-affine@conv2"),
        ({"transformers": [[{"at": "conv2"}] * 4] * 4}, "cnn-16-transformers"),
    ],
)
def test_networks_have_names_that_tell_them_apart(settings: dict[str, Any], label: str):
    assert model(**settings).label == label


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": "st-cnn", "transformers": [{}]}, "st-cnn has one transformer already, so no transformers; use cnn"),
        ({"name": "cnn", "transform": "tps", "transformers": [{}]}, "no transform tps here"),
        ({"name": "fcn", "transformers": [{"at": "conv1"}]}, "the fcn has no conv1"),
        ({"transformers": [{"at": "output"}]}, "output sees vectors"),
        ({"name": "fcn", "transformers": [{"at": "FC1"}]}, "fc1 sees vectors"),
        ({"transformers": [[{}, {"at": "conv2"}]]}, "stand at one place, not at input and conv2"),
        ({"transformers": [[{"out_size": [9, 8]}, {}]]}, r"one out_size, not \(9, 8\) and None"),
        ({"transformers": [[]]}, "one is empty"),
        ({"transformers": [{}] * 17}, "16 transformers at most"),
        ({"transformers": [{"at": "conv2"}], "pool": 2}, "no transformer at the input, so no pooling"),
        ({"transformers": [{"localisation": {"kind": "cnn", "widths": [3]}}]}, "three widths"),
        ({"transformers": [{"localisation": {"widths": [3, 4]}}]}, "three widths"),
        ({"transformers": [{"localisation": {"widths": [3, 0, 1]}}]}, "greater than or equal to 1"),
        ({"transformers": [{"rate": -0.1}]}, "rate"),
        ({"transformers": [{"rate": math.nan}]}, "rate"),
        ({"transformers": [{"out_size": [0, 5]}]}, "out_size"),
        ({"transformers": [{"out_size": [5, 513]}]}, "out_size"),
        ({"transformers": [{"out_size": 14}]}, "out_size"),
    ],
)
def test_transformers_that_do_not_fit_are_refused(settings: dict[str, Any], what: str):
    with pytest.raises(ValidationError, match=what):
        model(**settings)


def test_pooling_may_be_chosen_wherever_a_warp_comes_from_the_input():
    assert model(transformers=[{"at": "conv2"}, {}], pool=3).pool == 3


def transformers(rng: random.Random) -> list[Any]:
    """Draw transformers that fit a CNN."""

    def one(place: str, out_size: Any) -> dict[str, Any]:
        drawn = {
            "at": place,
            "transform": rng.choice(names.TRANSFORMS),
            "out_size": out_size,
            "antialias": rng.random() < 0.5,
            "localisation": rng.choice(
                ["fcn", {"kind": "cnn", "widths": [3, 4, 5]}, {"kind": "fcn", "widths": []}, {}]
            ),
            "rate": rng.choice([None, rng.random()]),
            "feed_theta": rng.random() < 0.5,
        }
        return {key: value for key, value in drawn.items() if key in ("at", "out_size") or rng.random() < 0.6}

    items: list[Any] = []
    for _ in range(rng.randint(1, 4)):
        place = rng.choice(["input", "conv1", "conv2"])
        out_size = rng.choice([None, [rng.randint(1, 512), 40]])
        group = [one(place, out_size) for _ in range(rng.randint(1, 3))]
        items.append(group if len(group) > 1 or rng.random() < 0.3 else group[0])
    return items


def test_drawn_transformers_survive_a_dump():
    rng = random.Random(0)
    for _ in range(200):
        drawn = model(transformers=transformers(rng))
        for mode in ("json", "python"):
            assert ModelConfig.model_validate(drawn.model_dump(mode=mode)) == drawn
