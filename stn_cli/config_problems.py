"""What is wrong with a configuration, in words: place, setting, fault, what to write instead."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stn_cli.config import RunConfig
from stn_cli.config_model import ONE, PARALLEL
from stn_cli.errors import UsageError

SettingPath = tuple[str, ...]  # where a setting stands: ("train", "epochs")

# What belongs into settings that are lists, but for ranges.
LISTS = {
    "stages": "two distortions or more belong here, [{kind: R}, {kind: E}]",
    "transformers": "transformers belong here, [{at: input, transform: affine}]",
    "out_size": "two numbers belong here, [height, width]",
    "widths": "numbers belong here, [32, 32]",
}


class ConfigError(UsageError):
    """Everything that is wrong with a configuration, one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(_one_line(problem) for problem in problems)
        super().__init__("\n".join(self.problems))

    def __str__(self) -> str:
        return "\n".join(self.problems)


def explain(problem: Any, lines: Mapping[SettingPath, str], said: Mapping[SettingPath, str]) -> str:
    """Turn one of pydantic's problems into a line: place, setting, what is wrong, what to write."""
    loc, kind, given, context = problem["loc"], problem["type"], problem["input"], problem.get("ctx", {})
    path = _path(loc)
    if kind == "union_tag_invalid":
        path, given = (*path, "kind"), given["kind"]
    place, name = _place(path, lines, said), ".".join(path)
    if kind == "extra_forbidden":
        elsewhere = [other for other in _every_setting() if other.split(".")[-1] == loc[-1] and other != name]
        hint = nearest(loc[-1], list(_inside(_schema_at(loc[:-1]))["properties"]), elsewhere)
        return f"{place}unknown setting {shown(name)}. {hint}"
    if kind in ("literal_error", "union_tag_invalid"):
        names = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        return f"{place}{name} has no choice {shown(given)}. {nearest(str(given), names)}"
    if kind in ("model_type", "model_attributes_type"):
        first = next(iter(_schema_at(loc).get("properties", ["kind"])))
        how = f"Write {{{first}: …}}" if path[-1].isdigit() else f"Set {name}.{first}"  # an item of a list has no name
        return f"{place}{name} is a section of settings, not {shown(given)}. {how}."
    bounds = ", or ".join(_ranges(_schema_at(loc)))
    allowed = f" Allowed: {bounds}." if bounds else ""
    if kind == "value_error":
        return f"{place}{name}: {str(context['error']).rstrip('.')}.{allowed}"
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    if path[-1] in LISTS and kind in ("tuple_type", "missing", "too_long"):
        reason = LISTS[path[-1]]
    elif "prefixItems" in _schema_at(loc) and kind in ("tuple_type", "missing", "too_long"):
        reason = "two numbers belong here, [lowest, highest]"
    return f"{place}{name} is {shown(given)}: {reason}.{allowed}"


def _path(loc: tuple[str | int, ...]) -> SettingPath:
    """Return where a setting stands: pydantic's location without the kinds it names, and without a range's end."""
    path: list[str] = []
    for i, part in enumerate(loc):
        before = loc[i - 1] if i else None
        is_kind = loc[:i] == ("distortion",) or (
            isinstance(before, int) and (loc[i - 2] == "stages" or part in (ONE, PARALLEL))
        )
        if not is_kind and (isinstance(part, str) or before in ("stages", "transformers", PARALLEL)):
            path.append(str(part))
    return tuple(path)


def _place(path: SettingPath, lines: Mapping[SettingPath, str], said: Mapping[SettingPath, str]) -> str:
    """Return the override that sets a setting or its section, else the line in the file; and all overrides within."""
    above = [shown(override) for key, override in said.items() if key == path[: len(key)]]
    known = [lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines][:1]
    within = [shown(override) for key, override in said.items() if path == key[: len(path)] != key]
    place = ", ".join((above or known) + within)
    return f"{place}: " if place else ""


def shown(given: Any) -> str:
    """Return what was given, for a message: text as it is, quoted where its ends would not show, cut at 80 letters."""
    quoted = "null" if given is None else repr(given)
    text = given if isinstance(given, str) and given.strip() == given != "" else quoted
    return text if len(text) <= 80 else f"{text[:79]}…"


_schema = functools.cache(RunConfig.model_json_schema)


def _resolve(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return _schema()["$defs"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema


def _inside(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of the section that a setting is, or that its items are."""
    schema = schema.get("items", schema)
    return _resolve(schema["anyOf"][0] if "anyOf" in schema else schema)


def _schema_at(loc: Sequence[str | int]) -> Mapping[str, Any]:
    """Return the JSON schema of the setting at pydantic's location; of both numbers of a range it is the same."""
    here = _schema()
    for part in (part for part in loc if isinstance(part, str)):
        here = _inside(here)
        kinds = here.get("discriminator", {}).get("mapping", {})
        if part in (ONE, PARALLEL):
            here = _resolve(here["oneOf"][0])
        else:
            here = _resolve({"$ref": kinds[part]} if kinds else here["properties"][part])
    return here


def _every_setting() -> list[str]:
    """Return the full name of every setting, "train.epochs"."""
    names: list[str] = []
    for section, schema in _schema()["properties"].items():
        for choice in map(_resolve, schema.get("oneOf", [schema])):
            names += [f"{section}.{key}" for key in choice.get("properties", {})] or [section]
    return list(dict.fromkeys(names))


def _ranges(schema: Mapping[str, Any]) -> Iterator[str]:
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    for choice in schema.get("anyOf") or [schema]:
        number = choice.get("prefixItems", [choice.get("items", choice)])[0]
        bounds = [f"{word} {number[key]:.12g}" for key, word in words.items() if key in number]
        if bounds:
            yield " ".join(bounds)


def nearest(given: str, names: Sequence[str], better: Sequence[str] = ()) -> str:
    """Return a hint: the `better` names, else those the fewest edits away, else the whole choice."""
    near = {name: _edits(given.lower(), name.lower()) for name in names if abs(len(name) - len(given)) <= 3}
    fewest = min(near.values(), default=0)
    close = better or [name for name in near if near[name] == fewest <= max(1, len(given) // 3)]
    return f"Did you mean {' or '.join(close)}?" if close else f"Choose from {', '.join(names)}."


def _edits(a: str, b: str) -> int:
    """Return how many letters to insert, delete, replace or swap with the next one turn one word into the other."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a):
        row = [i + 1]
        for j, y in enumerate(b):
            row.append(min(rows[i][j + 1] + 1, row[j] + 1, rows[i][j] + (x != y)))
            if i and j and x == b[j - 1] and y == a[i - 1]:
                row[-1] = min(row[-1], rows[i - 1][j - 1] + 1)
        rows.append(row)
    return rows[-1][-1]


def _one_line(text: str) -> str:
    """Escape what is no visible character, so that nothing from a file breaks the line or commands the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
