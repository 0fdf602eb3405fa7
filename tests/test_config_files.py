"""Configurations from files and overrides: every fault named at its place, everything else kept exactly."""

import random
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from stn_cli import config_files, names
from stn_cli.config import RunConfig
from stn_cli.config_files import ConfigError, dump_config, find_config, load_config, shipped_configs
from stn_cli.errors import UsageError

SCHEMA = RunConfig.model_json_schema()


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def write(content: str | bytes) -> str:
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return "c.yaml"


def problems(content: str | bytes | None = None, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None if content is None else write(content), overrides)
    assert caught.value.exit_code == 2
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(problem.isprintable() and problem[-1] in ".?" for problem in caught.value.problems)
    return list(caught.value.problems)


def settings_of(section: dict[str, Any]) -> list[str]:
    return list(SCHEMA["$defs"][section["$ref"].rpartition("/")[2]]["properties"])


def groups() -> Iterator[tuple[str, list[str]]]:
    """The names that stand beside each other: an override prefix that needs one of them, and the names."""
    yield "", list(SCHEMA["properties"])
    for section, schema in SCHEMA["properties"].items():
        if "$ref" in schema:
            yield f"{section}.", settings_of(schema)


KINDS = {kind: settings_of({"$ref": ref})
         for kind, ref in SCHEMA["properties"]["distortion"]["discriminator"]["mapping"].items()}  # fmt: skip
CHOICES = {
    "model.name": names.MODELS,
    "model.transform": names.TRANSFORMS,
    "distortion.kind": names.DISTORTIONS,
    "train.recipe": names.RECIPES,
    "train.schedule": ("one-cycle", "step"),
    "runtime.device": names.DEVICES,
    "runtime.precision": names.PRECISIONS,
}
EVERY_NAME = {name for _, group in groups() for name in group} | {name for group in KINDS.values() for name in group}


# ---- typing errors


def typos(word: str) -> list[str]:
    """Every single edit: a letter left out, two swapped, one replaced, one too many."""
    letters = string.ascii_lowercase + "_-"
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    edited = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    edited |= {a + c + b[1:] for a, b in cuts if b for c in letters} | {a + c + b for a, b in cuts for c in letters}
    return sorted(edited)


def hinted(problem: str) -> set[str]:
    """The names after "Did you mean", without their section."""
    hint = problem.rpartition("Did you mean ")[2].removesuffix("?")
    return {name.rpartition(".")[2] for name in hint.split(" or ")}


def check_hint(problem: str, typo: str, meant: str) -> None:
    """The name meant is among those named, and all of those are one edit away: so no list of everything passes."""
    assert meant in hinted(problem), problem
    assert all(typo.lower() in typos(name.lower()) for name in hinted(problem)), problem


def check_hints(prefix: str, wrong: list[str], meant: str, overrides: Sequence[str] = ()) -> None:
    assert len(wrong) > 100
    for start in range(0, len(wrong), 50):
        typed = {f"{prefix}{typo}=1": typo for typo in wrong[start : start + 50]}
        found = problems(None, [*overrides, *typed])
        assert len(found) == len(typed)
        for problem in found:
            check_hint(problem, typed[problem.partition(": ")[0]], meant)


@pytest.mark.parametrize(("prefix", "group"), list(groups()))
def test_every_single_typo_in_a_setting_names_the_right_one(prefix: str, group: list[str]):
    for name in group:
        check_hints(prefix, [typo for typo in typos(name) if typo not in group], name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_typo_in_a_setting_of_a_distortion_names_the_right_one(kind: str):
    for name in KINDS[kind]:
        wrong = [typo for typo in typos(name) if typo not in KINDS[kind]]
        stages = ["distortion.stages=[{kind: R}, {kind: E}]"] if kind == "chain" else []
        check_hints("distortion.", wrong, name, [f"distortion.kind={kind}", *stages])


@pytest.mark.parametrize("setting", CHOICES)
def test_every_single_typo_in_a_choice_names_the_right_one(setting: str):
    group = {name.lower() for name in CHOICES[setting]}
    for name in CHOICES[setting]:
        for typo in typos(name):
            if typo.lower() not in group:
                (problem,) = problems(None, [f"{setting}={typo}"])
                assert problem.startswith(f"{setting}={typo}: {setting} has no choice ")
                check_hint(problem, typo, name)


def test_all_problems_are_listed_at_once_each_with_its_place():
    content = "seeed: 1\ntrain:\n  epohcs: 3\n  batch_size: 0\nmodel:\n  name: stcnn\n"
    found = problems(content, ["train.momentum=2", "lgo.every=3", "model.transfrom=tps", "so"])
    assert sorted(found) == sorted(
        [
            "c.yaml:1: unknown setting seeed. Did you mean seed?",
            "c.yaml:3: unknown setting train.epohcs. Did you mean epochs?",
            "c.yaml:4: train.batch_size is 0: input should be greater than or equal to 1. Allowed: from 1 to 65536.",
            "c.yaml:6: model.name has no choice stcnn. Did you mean st-cnn?",
            "train.momentum=2: train.momentum is 2: input should be less than 1. Allowed: from 0 below 1.",
            "lgo.every=3: unknown setting lgo. Did you mean log?",
            "model.transfrom=tps: unknown setting model.transfrom. Did you mean transform?",
            "so is no override. Write key=value, such as train.epochs=3.",
        ]
    )


def test_a_setting_without_its_section_is_shown_the_way():
    (problem,) = problems(None, ["epochs=3"])
    assert problem == "epochs=3: unknown setting epochs. Did you mean train.epochs?"
    (problem,) = problems("model: st-cnn\n")
    assert problem == "c.yaml:1: model is a section of settings, not st-cnn. Set model.name."
    assert problems(None, ["xyz=1"]) == [f"xyz=1: unknown setting xyz. Choose from {', '.join(SCHEMA['properties'])}."]


def test_a_fault_between_two_settings_names_both_places():
    assert problems("train:\n  epochs: 3\n  iterations: 5\n", ["train.momentum=0.5"]) == [
        "c.yaml:1, train.momentum=0.5: train: set either epochs or iterations."
    ]
    assert problems(None, ["train.epochs=3", "train.iterations=5"]) == [
        "train.epochs=3, train.iterations=5: train: set either epochs or iterations."
    ]


# ---- values out of range


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        *((f"train.learning_rate={value}", "above 0 to 100") for value in ("nan", "inf", "-inf", "-1", "0", "1e999")),
        *((f"train.epochs={value}", "above 0 to 100000") for value in ("0", "-1", "nan", "inf")),
        *((f"train.batch_size={value}", "from 1 to 65536") for value in ("0", "-1", "1.5", "nan", "x", "", "9" * 5000)),
        ("seed=-1", "from 0 to 2147483647"),
        *((f"distortion.rotation={value}", "from -360 to 360") for value in ("[30, 10]", "[0, 1e9]", "[1]", "[]", "5")),
        *((f"distortion.rotation={value}", "from -360 to 360") for value in ("[1, 2, 3]", "[nan, 1]", "{a: 1}", "~")),
    ],
)
def test_a_value_out_of_range_shows_the_allowed_range(override: str, allowed: str):
    key, _, value = override.partition("=")
    (problem,) = problems(None, [override])
    assert problem.startswith(override[:79])
    assert problem.endswith(f". Allowed: {allowed}.")
    section, _, setting = key.rpartition(".")
    content = f"{section}:\n  {setting}: {value}\n" if section else f"{setting}: {value}\n"
    place = "c.yaml:2: " if section else "c.yaml:1: "
    (problem,) = problems(content)
    assert problem.startswith(f"{place}{key}")
    assert problem.endswith(f". Allowed: {allowed}.") or not value  # nothing is null in YAML


# ---- files

DEEP = 5_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "c.yaml:1: is empty."),
        (b"# nothing\n", "c.yaml:1: is empty."),
        (b"null", "c.yaml:1: is empty."),
        (b"- 1\n- 2\n", "c.yaml:1: holds no settings."),
        (b"words", "c.yaml:1: holds no settings."),
        (b"seed: 1\ntrain:\n\tepochs: 3\n", "c.yaml:3: while scanning"),
        (b"seed: 1\n\ntrain: [1\n", "c.yaml:4: while parsing"),
        (b"seed: 1\n---\nseed: 2\n", "c.yaml:2: expected a single document"),
        (b"train:\n  epochs: 1\n  epochs: 2\n", "c.yaml:3: train.epochs stands twice."),
        (b"\x00\x01\x02", "c.yaml:1: unacceptable character"),
        (b"\x89PNG\r\n\x1a\n", "c.yaml: not a text file in UTF-8."),
        ("seed: 1".encode("utf-16"), "c.yaml: not a text file in UTF-8."),
        (b"#" * 1_000_001, "c.yaml: larger than 100,000 bytes."),
        (b"name: &n x\nruns_dir: *n\n", "c.yaml:2: tags and aliases are not supported."),
        (b"train:\n  epochs: !!int x\n", "c.yaml:2: tags and aliases are not supported."),
        (b"seed: !!timestamp x\n", "c.yaml:1: tags and aliases are not supported."),
        (b"seed: !!bool x\n", "c.yaml:1: tags and aliases are not supported."),
        (b"distortion: !!python/dict {kind: R}\n", "c.yaml:1: tags and aliases are not supported."),
        (b"[" * DEEP, "c.yaml:1: nested too deeply."),
        (b"{a: " * DEEP, "c.yaml:1: nested too deeply."),
        (b"- " * DEEP, "c.yaml:1: nested too deeply."),
        (b"a: " + b"[" * 300 + b"]" * 300, "c.yaml:1: nested too deeply."),
        (b"? [a, b]\n: 1\n", "c.yaml:1: a list or mapping is no key."),
        (b"? {a: b}\n: 1\n", "c.yaml:1: a list or mapping is no key."),
        (b"seed: 1\n1: 2\n", "c.yaml:2: unknown setting 1."),
        (b"null: 2\n", "c.yaml:1: unknown setting null."),
        (b"<<: {seed: 1}\n", "c.yaml:1: unknown setting <<."),
        (b"'a\\x1b[31m': 2\n", "c.yaml:1: unknown setting a\\x1b[31m."),
        (b'"a\\nb": 2\n', "c.yaml:1: unknown setting a\\nb."),
        (b'name: "\\UFFFFFFFF"\n', "c.yaml:1: "),
        (b"%YAML 1." + b"9" * 5000 + b"\n---\nseed: 1\n", "c.yaml:1: "),
        (b"train:\n", "c.yaml:1: train is a section of settings, not null."),
        (b"seed: 2020-99-99\n", "c.yaml:1: seed is 2020-99-99:"),
    ],
)
def test_a_file_that_is_no_config_gets_one_clear_line(content: bytes, expected: str):
    (problem,) = problems(content)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "name: !!python/object/apply:os.system ['touch pwned']",
        "? !!python/object/apply:os.system ['touch pwned']\n: 3",
        "train: !!python/object/new:os.system {args: ['touch pwned']}",
        "seed: [!!python/object/apply:os.system ['touch pwned']]",
    ],
)
def test_nothing_in_a_config_is_run(content: str):
    assert problems(content) == ["c.yaml:1: tags and aliases are not supported. Write plain keys and values."]
    override = f"name={{a: {content.splitlines()[0].removeprefix('? ')}}}"
    assert len(problems(None, [override])) == 1
    assert not Path("pwned").exists()


def test_all_repeated_keys_and_unknown_ones_are_listed():
    assert [problem.partition(". ")[0] for problem in problems("seed: 1\nseed: 2\nseed: 3\nx_y: 1\n")] == [
        "c.yaml:2: seed stands twice",
        "c.yaml:3: seed stands twice",
        "c.yaml:4: unknown setting x_y",
    ]


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", ".001", "0.001", "1.e-3", "+1e-3"])
def test_a_number_is_a_number_however_it_is_written(text: str):
    assert load_config(write(f"train:\n  learning_rate: {text}\n")).train.learning_rate == 0.001
    assert load_config(None, [f"train.learning_rate={text}"]).train.learning_rate == 0.001


def test_a_byte_order_mark_and_windows_lines_do_no_harm():
    assert load_config(write(b"\xef\xbb\xbfseed: 3\r\nname: a\r\n")) == load_config(None, ["seed=3", "name=a"])


def test_a_thousand_unknown_keys_are_all_listed():
    found = problems("".join(f"key{i}: 1\n" for i in range(1000)))
    assert [problem.partition(":")[2].partition(":")[0] for problem in found] == [str(i + 1) for i in range(1000)]


def test_a_config_that_is_not_there_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    folder = Path("shipped").absolute()
    (folder / "mnist").mkdir(parents=True)
    (folder / "mnist" / "rts.yaml").write_text("seed: 7\n")
    monkeypatch.setattr(config_files, "config_folder", lambda: folder)
    assert shipped_configs() == ["mnist/rts"]
    for name in ("mnist/rts", "mnist/rts.yaml"):
        assert find_config(name) == folder / "mnist" / "rts.yaml"
        assert load_config(name).seed == 7
    with pytest.raises(UsageError, match=r"there is no config 'mnist/rst'.* Did you mean mnist/rts\?"):
        load_config("mnist/rst")
    for name in ("", ".", "shipped", "x" * 10_000, "a\0b", "../../etc", "\ud800"):
        with pytest.raises(UsageError, match="there is no config"):
            load_config(name)


def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write("seed: 1")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"^c.yaml: cannot be read: Permission denied\. Choose another file\.$"):
        load_config("c.yaml")


def test_every_shipped_config_loads():
    for name in shipped_configs():
        assert load_config(name) == load_config(name + ".yaml")


# ---- overrides


@pytest.mark.parametrize(
    "text", ["a=b==c", "two words", " led ", "grüße/走", "007", "1e-3", "true", "2020-01-01", "#x"]
)
@pytest.mark.parametrize("setting", ["name", "runs_dir", "data.dataset", "data.data_dir"])
def test_a_text_is_kept_exactly(setting: str, text: str):
    expected = load_config(None, [f"{setting}={text}"])
    section, _, key = setting.rpartition(".")
    assert getattr(getattr(expected, section) if section else expected, key) == text
    quoted = {key: f'"{text}"'}
    written = {key: text} if text.strip() == text and text != "#x" else quoted  # YAML strips, and # is a comment
    for lines in (written, quoted):
        line = f"{key}: {lines[key]}\n"
        assert load_config(write(f"{section}:\n  {line}" if section else line)) == expected
    assert load_config(write(dump_config(expected))) == expected


@pytest.mark.parametrize("override", ["", "seed", "=3", " =3", ".=3", "train.=3", ".epochs=3", "train..epochs=3"])
def test_what_is_no_override_is_said_to_be_none(override: str):
    (problem,) = problems(None, [override])
    assert problem.endswith("is no override. Write key=value, such as train.epochs=3.")


@pytest.mark.parametrize(
    "value", ["[1, 2", "{a: ", "[&a 1, *a]", "[" * DEEP, "[!!python/name:os.system '']", "[\t\x07"]
)
def test_a_broken_list_names_its_override(value: str):
    (problem,) = problems(None, [f"distortion.rotation={value}"])
    assert problem.lstrip("'").startswith("distortion.rotation=" + value[0])


def test_overrides_of_what_is_no_section_are_named():
    for overrides in (["train=x", "train.iterations=3"], ["model=null", "model.name=cnn"], ["seed=1", "seed.x=1"]):
        assert any(problem.startswith(f"{overrides[1]}: ") for problem in problems(None, overrides))
    found = problems("train: 5", ["train.epochs=3"])
    assert "c.yaml:1, train.epochs=3: train is a section of settings, not 5. Set train.recipe." in found


def test_an_override_shows_no_control_characters():
    (problem,) = problems(None, ["nme=\n\x1b[31m\u202e"])
    assert problem == "nme=\\n\\x1b[31m\\u202e: unknown setting nme. Did you mean name?"


def test_of_two_overrides_the_later_one_wins():
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2
    assert load_config(None, ["distortion.kind=E", "distortion.kind=RTS"]) == load_config(None, ["distortion.kind=RTS"])
    whole = ["train.epochs=3", "train={recipe: paper, batch_size: 8}"]
    assert load_config(None, whole) == load_config(None, ["train.recipe=paper", "train.batch_size=8"])
    assert load_config(None, [*whole, "train.epochs=3"]).train.epochs == 3


# ---- what an override takes out of force


def test_setting_one_length_drops_the_other_of_the_file():
    for content in ("train: {recipe: paper}", "train: {recipe: paper, iterations: 9}", "train: {iterations: 9}"):
        train = load_config(write(content), ["train.epochs=3"]).train
        assert (train.epochs, train.iterations) == (3, None)
    train = load_config(write("train: {epochs: 9}"), ["train.iterations=3"]).train
    assert (train.epochs, train.iterations) == (None, 3)
    assert load_config(write("train: {iterations: 9}"), ["train.epochs=null"]).train.iterations == 9


def test_another_distortion_drops_the_ranges_of_the_files():
    name = write("distortion: {kind: RTS, canvas: 50, rotation: [-5, 5], scale: [1, 1.5]}")
    for kind in ("R", "e", "none"):
        assert load_config(name, [f"distortion.kind={kind}"]) == load_config(None, [f"distortion.kind={kind}"])
    for kind in ("RTS", "rts"):
        assert load_config(name, [f"distortion.kind={kind}"]) == load_config(name)
    unnamed = write("distortion: {rotation: [-5, 5]}")  # R where nothing is said
    assert load_config(unnamed, ["distortion.kind=R"]) == load_config(unnamed)
    given = ["distortion.rotation=[0, 1]", "distortion.kind=R"]
    for overrides in (given, given[::-1]):
        assert load_config(name, overrides).distortion.model_dump()["rotation"] == (0, 1)
    for overrides in (
        ["distortion.kind=R", "distortion.scale=[1, 1]"],
        ["distortion.scale=[1, 1]", "distortion.kind=R"],
    ):
        assert "unknown setting distortion.scale" in problems(None, overrides)[0]


def test_a_network_without_transformer_drops_the_transform_of_the_file_but_not_an_explicit_one():
    name = write("model: {name: st-cnn, transform: tps}")
    model = load_config(name, ["model.name=cnn"]).model
    assert (model.name, model.transform) == ("cnn", None)
    assert load_config(name, ["model.name=ST-FCN"]).model.transform == "tps"
    for overrides in (["model.name=cnn", "model.transform=tps"], ["model.transform=tps", "model.name=cnn"]):
        (problem,) = problems(Path(name).read_text(), overrides)
        assert (
            problem
            == f"c.yaml:1, {', '.join(overrides)}: model: cnn has no transformer, so no transform tps; use st-cnn."
        )
    assert problems("model: {name: cnn, transform: tps}")[0].startswith("c.yaml:1: model: cnn has no transformer")


def test_a_folder_means_no_distortion_unless_one_is_given():
    assert load_config(None, ["data.dataset=some/folder"]).distortion.kind == "none"
    assert load_config(write("data: {dataset: some/folder}")).distortion.kind == "none"
    assert load_config(None, ["data.dataset=some/folder", "distortion.kind=E"]).distortion.kind == "E"
    assert load_config(None, ["data.dataset=MNIST"]).distortion.kind == "R"


# ---- laws over many configurations


def valid_settings(rng: random.Random) -> dict[str, str]:
    """Draw overrides that make a sound configuration: setting and text."""
    kind = rng.choice(names.DISTORTIONS)
    degrees = sorted(rng.uniform(-360, 360) for _ in "ab")
    scales = sorted(rng.uniform(0.05, 4) for _ in "ab")
    name = rng.choice(names.MODELS)
    text = "".join(rng.choices("ab07 =é走/._-#:'\"[]{}!&*%@`|>,~\\", k=rng.randint(0, 8)))
    settings = {
        "name": f"x{text}",
        "runs_dir": f"r{text}y",
        "seed": str(rng.randrange(2**31)),
        "data.dataset": rng.choice(["digits", "MNIST", f"d{text}"]),
        "data.offline": rng.choice(["true", "no", "1", "off"]),
        "data.validation": str(rng.uniform(0, 0.5)),
        "distortion.kind": kind,
        **({"distortion.canvas": str(rng.randint(8, 256))} if "canvas" in KINDS[kind] else {}),
        **({"distortion.rotation": str(degrees)} if "rotation" in KINDS[kind] else {}),
        **({"distortion.scale": str(scales)} if "scale" in KINDS[kind] else {}),
        **({"distortion.stages": f"[{{kind: RTS, scale: {scales}}}, {{kind: TC}}]"} if kind == "chain" else {}),
        "model.name": name,
        **({"model.transform": rng.choice(names.TRANSFORMS)} if name.startswith("st-") else {}),
        "train.recipe": rng.choice(names.RECIPES),
        rng.choice(["train.epochs", "train.iterations"]): str(rng.randint(1, 10**5)),
        "train.learning_rate": repr(10 ** rng.uniform(-12, 2)),
        "train.weight_decay": repr(10 ** rng.uniform(-300, 0)),
        "train.clip_norm": rng.choice(["null", "0.5"]),
        "runtime.threads": rng.choice(["null", "4"]),
        "log.every": str(rng.randint(1, 10**4)),
    }
    kept = {setting: text for setting, text in settings.items() if rng.random() < 0.7}
    if "model.transform" in kept:
        kept["model.name"] = name
    if any(setting.startswith("distortion.") for setting in kept):
        both = {"distortion.kind", "distortion.stages"} & settings.keys()
        kept |= {setting: settings[setting] for setting in both}
    return kept


def as_yaml(settings: dict[str, str]) -> str:
    tree: dict[str, Any] = {}
    for setting, text in settings.items():
        section, _, key = setting.rpartition(".")
        value = yaml.safe_load(text) if text == "null" or setting.startswith("distortion.") else text
        (tree.setdefault(section, {}) if section else tree)[key] = value
    return yaml.safe_dump(tree, allow_unicode=True)


def test_a_dumped_configuration_loads_as_the_same_and_dumps_as_the_same():
    rng = random.Random(0)
    for _ in range(120):
        config = load_config(None, [f"{setting}={text}" for setting, text in valid_settings(rng).items()])
        dumped = dump_config(config)
        assert load_config(write(dumped)) == config
        assert dump_config(load_config("c.yaml")) == dumped


def test_a_file_and_overrides_in_any_order_say_the_same():
    rng = random.Random(1)
    for _ in range(100):
        settings = valid_settings(rng) or {"seed": "1"}
        overrides = [f"{setting}={text}" for setting, text in settings.items()]
        config = load_config(write(as_yaml(settings)))
        assert load_config(None, overrides) == config
        assert load_config("c.yaml", rng.sample(overrides, len(overrides))) == config
        assert load_config(None, rng.sample(overrides, len(overrides))) == config


def strange_value(rng: random.Random, depth: int = 0) -> Any:
    plain = [
        None,
        True,
        0,
        -1,
        3,
        0.5,
        1e9,
        float("nan"),
        float("inf"),
        2**70,
        "",
        "null",
        "1e-3",
        "nan",
        "0x10",
        "007",
    ]
    plain += [
        "st-cnn",
        "stcnn",
        "RTS",
        "rts",
        "none",
        "paper",
        "quick",
        "tps",
        "cpu",
        "a\nb",
        "\x1b[0m",
        "é走\u2028",
        b"\0",
    ]
    roll = rng.random()
    if roll < 0.75 or depth > 3:
        return rng.choice(plain)
    if roll < 0.9:
        return [strange_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {strange_key(rng): strange_value(rng, depth + 1) for _ in range(rng.randint(0, 3))}


def strange_key(rng: random.Random) -> Any:
    known = sorted(EVERY_NAME)
    return rng.choice([*known, rng.choice(typos(rng.choice(known))), 1, None, True, "a.b", "", "\n"])


def strange_config(rng: random.Random) -> bytes:
    """Draw a file: real sections with real settings and strange values, now and then with bytes broken."""
    tree: dict[Any, Any] = {}
    for section, schema in rng.sample(list(SCHEMA["properties"].items()), rng.randint(0, 4)):
        keys = (
            KINDS[rng.choice(list(KINDS))]
            if section == "distortion"
            else settings_of(schema)
            if "$ref" in schema
            else []
        )
        drawn = rng.sample(keys, min(len(keys), rng.randint(0, 3)))
        tree[section] = {key: strange_value(rng) for key in drawn} if drawn else strange_value(rng)
    if rng.random() < 0.2:
        tree[strange_key(rng)] = strange_value(rng)
    content = bytearray(yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).encode())
    for _ in range(rng.choice([0, 0, 0, 1, 2, 5])):
        at = rng.randrange(len(content) + 1)
        noise = [
            b"\t",
            b"\0",
            b"\xff",
            b":",
            b"- ",
            b"[",
            b"{",
            b"&a ",
            b"*a",
            b"!!x ",
            b"%",
            b"? ",
            b"\n",
            b"'",
            b'"',
            b"|",
        ]
        content[at : at + rng.randint(0, 2)] = rng.choice(noise)
    return bytes(content)


def strange_override(rng: random.Random) -> str:
    section = rng.choice(["", *(f"{section}." for section in SCHEMA["properties"])])
    value = strange_value(rng)
    text = value if isinstance(value, str) else str(value).replace("None", "null")
    return rng.choice([f"{section}{strange_key(rng)}={text}", f"{section}{strange_key(rng)}={text}", text])


def test_whatever_is_written_loads_or_is_explained():
    rng = random.Random(0)
    loaded, refused = 0, []
    for _ in range(2000):
        content = strange_config(rng) if rng.random() < 0.8 else None
        overrides = [strange_override(rng) for _ in range(rng.choice([0, 0, 1, 2]))]
        try:
            load_config(None if content is None else write(content), overrides)
        except ConfigError as error:
            refused.append(error)
        else:
            loaded += 1
    assert min(loaded, len(refused)) > 200, "the draw must reach both ends"
    for error in refused:
        assert error.problems
        assert all(problem and problem.isprintable() for problem in error.problems)


def test_a_recipe_brings_its_own_length() -> None:
    """digits/r says 200 epochs of the quick recipe; the paper's recipe has 150,000 iterations."""
    train = load_config("digits/r", ["train.recipe=paper"]).train
    assert (train.epochs, train.iterations) == (None, 150_000)
    assert load_config("digits/r", ["train.recipe=quick"]).train.epochs == 200
    assert load_config("digits/r", ["train.recipe=paper", "train.epochs=3"]).train.epochs == 3


def test_settings_a_command_does_not_heed_are_refused_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config_files.refuse_other_settings(["data.offline=true", "name=x", "train.epochs=3"], ("data", "seed"))
    assert len(caught.value.problems) == 2
    assert all("Settings of data, seed do." in problem for problem in caught.value.problems)


# ---- transformers


@pytest.mark.parametrize(("form", "place"), [("[{%s: 1}]", "0"), ("[{}, [{}, {%s: 1}]]", "1.1")])
@pytest.mark.parametrize("section", ["TransformerConfig", "LocalisationConfig"])
def test_every_single_typo_in_a_setting_of_a_transformer_names_the_right_one(section: str, form: str, place: str):
    group = settings_of({"$ref": section})
    inner = "localisation." if section == "LocalisationConfig" else ""
    form = form.replace("%s: 1", "localisation: {%s: 1}") if inner else form
    for name in group:
        for typo in typos(name):
            if typo not in group and typo.strip("-"):
                override = f"model.transformers={form % typo}"
                (problem,) = problems(None, [override])
                assert problem.startswith(f"{override}: unknown setting model.transformers.{place}.{inner}{typo}. ")
                check_hint(problem, typo, name)


@pytest.mark.parametrize(
    ("setting", "listed"),
    [("at", ("input", "conv1", "conv2")), ("transform", names.TRANSFORMS), ("localisation", ("fcn", "cnn"))],
)
def test_every_single_typo_in_a_choice_of_a_transformer_names_the_right_one(setting: str, listed: Sequence[str]):
    for name in listed:
        for typo in typos(name):
            if typo not in listed and not set("-_") & set(typo):
                (problem,) = problems(None, [f"model.transformers=[{{{setting}: '{typo}'}}]"])
                check_hint(problem, typo, name)


def test_faults_of_transformers_are_all_named_at_their_lines():
    content = """
model:
  name: cnn
  transformers:
    - {at: input, rate: -1}
    - [{at: conv2, out_size: [7]},
       {at: cnv2, transfrom: tps}]
    - at: conv1
      localisation:
        kind: cn
"""
    assert problems(content) == [
        "c.yaml:5: model.transformers.0.rate is -1: input should be greater than or equal to 0. "
        "Allowed: from 0 to 100.",
        "c.yaml:6: model.transformers.1.0.out_size is ['7']: two numbers belong here, [height, width]. "
        "Allowed: from 1 to 512.",
        "c.yaml:7: model.transformers.1.1.at has no choice cnv2. Did you mean conv2?",
        "c.yaml:7: unknown setting model.transformers.1.1.transfrom. Did you mean transform?",
        "c.yaml:10: model.transformers.2.localisation.kind has no choice cn. Did you mean fcn or cnn?",
    ]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("affine", "model.transformers is affine: transformers belong here, [{at: input, transform: affine}]."),
        ("{at: input}", "transformers belong here, [{at: input, transform: affine}]."),
        ("[affine]", "model.transformers.0 is a section of settings, not affine. Write {at: …}."),
        ("[[], {}]", "model: a list in transformers holds those in parallel, and one is empty."),
        ("[{out_size: 14}]", "out_size is 14: two numbers belong here, [height, width]. Allowed: from 1 to 512."),
        ("[{out_size: [14, 0]}]", "greater than or equal to 1. Allowed: from 1 to 512."),
        ("[{localisation: {widths: 3}}]", "widths is 3: numbers belong here, [32, 32]. Allowed: from 1 to 4096."),
        (
            "[{at: fc1}]",
            "fc1 sees vectors, and a transformer needs a map. Choose from input, conv1, conv2, or feed θ to ",
        ),
    ],
)
def test_what_is_no_transformer_is_explained(value: str, fault: str):
    (problem,) = problems(None, [f"model.transformers={value}"])
    assert problem.startswith(f"model.transformers={value}: ")
    assert fault in problem


def test_one_transformer_of_a_list_cannot_be_overridden():
    (problem,) = problems("model: {transformers: [{at: conv2}]}", ["model.transformers.0.rate=3"])
    assert problem == "model.transformers.0.rate=3: model.transformers.0 is no section of settings."


def test_transformers_of_an_override_take_the_place_of_the_one_in_a_file_and_the_other_way_round():
    several, short = "model: {name: fcn, transformers: [{}, {}], pool: 3}", "model: {name: ST-FCN, transform: tps}"
    overrides = ["model.transformers=[{transform: attention}]"]
    for content, name in ((several, "fcn"), (short, "fcn"), ("model: {parameters: 5000}", "cnn"), ("seed: 1", "cnn")):
        model = load_config(write(content), overrides).model
        assert model.label == f"{name}-attention"
    assert load_config(write(several), ["model.name=st-cnn"]).model.label == "st-cnn-affine"
    for name in ("fcn", "cnn"):
        assert load_config(write(several), [f"model.name={name}"]).model.label == name
        assert load_config(write(short), [f"model.name={name}", *overrides]).model.label == f"{name}-attention"
    assert load_config(write(short), ["model.transformers=[]"]).model.label == "st-fcn-tps"
    for given in ([*overrides, "model.name=st-cnn"], ["model.name=st-cnn", *overrides]):
        (problem,) = problems(None, given)
        assert problem.endswith("model: st-cnn has one transformer already, so no transformers; use cnn.")


def test_a_configuration_with_transformers_survives_a_dump():
    flow = "[{at: Input, transform: TPS, rate: 1e-3}, [{at: conv2, out_size: [14, 9], localisation: fcn}, {at: conv2, "
    flow += "out_size: [14, 9], localisation: {kind: fcn, widths: [8]}, feed_theta: yes}]]"
    config = load_config(None, [f"model.transformers={flow}"])
    dumped = dump_config(config)
    assert load_config(write(dumped)) == config == load_config(write(f"model: {{transformers: {flow}}}"))
    assert dump_config(load_config("c.yaml")) == dump_config(config)
