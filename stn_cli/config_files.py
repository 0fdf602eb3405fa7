"""From YAML, overrides and options to a RunConfig, with every fault named at its place."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stn_cli.config import RunConfig
from stn_cli.config_problems import ConfigError, SettingPath, explain, nearest, shown
from stn_cli.errors import UsageError
from stn_cli.names import DATASETS

LARGEST_FILE = 100_000  # bytes; the largest shipped config has about 1,000, and PyYAML takes a second for 100,000
DEEPEST_NESTING = 20  # levels; a config has three

# Shorter ways to write an override.
SHORT: dict[SettingPath, SettingPath] = {("model",): ("model", "name"), ("distortion",): ("distortion", "kind")}


def config_folder() -> Path:
    """Return the folder of the shipped configs: inside an installed package, else at the top of the repository."""
    package = Path(__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def shipped_configs() -> list[str]:
    """Return the names of the shipped configs, "mnist/r", sorted."""
    folder = config_folder()
    names = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return sorted(name.as_posix() for name in names if name.parts[0] != "tables")  # those are grids of runs


def find_config(name: str) -> Path:
    """Return the file of a config given by path or by shipped name.

    Raises:
        UsageError: there is neither such a file nor such a shipped config.
    """
    if os.path.isfile(name):  # unlike Path.is_file, False also for names no file can have
        return Path(name)
    names = shipped_configs()
    if name.removesuffix(".yaml") in names:
        return config_folder() / f"{name.removesuffix('.yaml')}.yaml"
    raise UsageError(f"there is no config {name!r}, neither a file nor a shipped one", nearest(name, names))


def load_config(name: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the complete configuration of a run.

    `name`: a YAML file or a shipped config; None for the defaults. `overrides`: "train.epochs=3" and the like, in any
    order; of two for the same setting the later one wins. A choice made by an override takes out of force what the
    file says for another choice: the ranges of another distortion, the transformers of another model, the other length,
    and for a folder of distorted images any distortion.

    Raises:
        ConfigError: unknown keys, values out of range, broken YAML; all problems at once, with file and line.
        UsageError: there is no such config.
    """
    problems: list[str] = []
    lines: dict[SettingPath, str] = {}
    settings = _read_file(find_config(name), lines, problems) if name is not None else {}
    said: dict[SettingPath, str] = {}
    values: dict[SettingPath, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        path, before = tuple(part.strip() for part in key.split(".")), len(problems)
        if not equals or not all(path):
            problems.append(f"{shown(override)} is no override. Write key=value, such as train.epochs=3.")
        value = _override_value(override, text, problems)
        if isinstance(value, str):
            path = SHORT.get(path, path)
        if len(problems) == before:
            values.pop(path, None)  # to its later place in the order
            values[path], said[path] = value, override
    _drop_superseded(settings, values)
    for path, value in values.items():
        if not _set(settings, path, value):
            problems.append(f"{shown(said[path])}: {'.'.join(path[:-1])} is no section of settings.")
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:
        explained = dict.fromkeys(explain(problem, lines, said) for problem in error.errors())  # two bounds, one line
        raise ConfigError([*problems, *explained]) from None
    if problems:
        raise ConfigError(problems)
    return config


def read_settings(file: Path) -> dict[str, Any]:
    """Return what a YAML file says, as mappings, lists and text, for files that are no configuration of a run.

    Raises:
        ConfigError: it cannot be read, or is broken.
    """
    problems: list[str] = []
    settings = _read_file(file, {}, problems)
    if problems:
        raise ConfigError(problems)
    return settings


def refuse_other_settings(overrides: Sequence[str], sections: Sequence[str]) -> None:
    """Refuse overrides outside of some sections, for commands that would not heed them.

    Raises:
        ConfigError: a line per override, with the sections that count.
    """
    outside = [override for override in overrides if override.partition("=")[0].partition(".")[0] not in sections]
    if outside:
        raise ConfigError([f"{shown(o)} changes nothing here. Settings of {', '.join(sections)} do." for o in outside])


def dump_config(config: RunConfig) -> str:
    """Return the complete configuration as YAML that `load_config` reads back to the same one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _drop_superseded(settings: dict[str, Any], values: Mapping[SettingPath, Any]) -> None:
    for path, value in values.items():
        section = settings.get(path[0])
        if not isinstance(section, dict) or value is None:
            continue
        if path == ("distortion", "kind") and str(section.get("kind", "R")).lower() != str(value).lower():
            section.clear()
        elif path == ("model", "name"):
            section.pop("transformers", None)
            if not str(value).lower().startswith("st-"):
                section.pop("transform", None)
                section.pop("pool", None)
        elif path == ("model", "transformers") and value:
            section.pop("transform", None)
            section["name"] = str(section.get("name", "cnn")).lower().removeprefix("st-")
        elif path in (("train", "epochs"), ("train", "iterations")):
            section.pop("iterations" if path[1] == "epochs" else "epochs", None)
        elif path == ("train", "recipe") and str(section.get("recipe", "quick")).lower() != str(value).lower():
            for length in {"epochs", "iterations"} & section.keys():
                section.pop(length)  # each recipe has its own
        elif path == ("data", "dataset") and str(value).lower() not in (section.get("dataset"), *DATASETS):
            settings.pop("distortion", None)  # a folder holds distorted images already


def _set(settings: dict[str, Any], path: SettingPath, value: Any) -> bool:
    """Set one setting, and return whether it stands in a section."""
    section: Any = settings
    for key in path[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            return False
    section[path[-1]] = value
    return True


def _override_value(override: str, text: str, problems: list[str]) -> Any:
    if text in ("null", "~"):
        return None
    return _read_yaml(text, lambda _: shown(override), {}, problems) if text.startswith(("[", "{")) else text


def _read_file(file: Path, lines: dict[SettingPath, str], problems: list[str]) -> dict[str, Any]:
    """Return the settings of a file; note the line of each and the problems that leave it readable."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError([f"{file}: larger than {LARGEST_FILE:,} bytes. This is no config."])
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}. Choose another file."]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{file}: not a text file in UTF-8. Write the config as YAML text."]) from error
    settings = _read_yaml(text, lambda line: f"{file}:{line}", lines, problems)
    if isinstance(settings, dict):
        return settings
    what = "is empty" if settings is None else "holds no settings"
    raise ConfigError(problems or [f"{file}:1: {what}. Write key: value, such as seed: 0."])


def _read_yaml(text: str, place: Callable[[int], str], lines: dict[SettingPath, str], problems: list[str]) -> Any:
    """Return YAML as mappings, lists, text and None; note the place of each key and the problems.

    Scalars stay text (the schema turns them into numbers where they belong), so that names keep their zeros, `1e-3`
    is a number though YAML 1.1 takes it for a string, and no date or object is ever made.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # Tags make objects, and aliases unfold a kilobyte into gigabytes. No config needs either.
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or depth > DEEPEST_NESTING:
                what = "nested too deeply" if depth > DEEPEST_NESTING else "tags and aliases are not supported"
                problems.append(f"{place(event.start_mark.line + 1)}: {what}. Write plain keys and values.")
                return None
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        problems.append(f"{place(line)}: {what}. Indent with spaces, write key: value.")
        return None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets chr and int fail: "\UFFFFFFFF"
        problems.append(f"{place(1)}: {' '.join(str(error).split())}. Write the config as YAML text.")
        return None
    return None if node is None else _plain(node, (), place, lines, problems)


def _plain(
    node: yaml.Node, path: SettingPath, place: Callable[[int], str], lines: dict[SettingPath, str], problems: list[str]
) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, str(i)), place, lines, problems) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return None if node.tag == "tag:yaml.org,2002:null" else node.value
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = place(key_node.start_mark.line + 1)
        inner = (*path, str(key_node.value))
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{line}: a list or mapping is no key. Write key: value.")
        elif key_node.value in mapping:
            problems.append(f"{line}: {'.'.join(inner)} stands twice. Remove one.")
        else:
            lines[inner] = line
            mapping[key_node.value] = _plain(value_node, inner, place, lines, problems)
    return mapping
