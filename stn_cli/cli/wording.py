"""Errors in the words of the command line: by the names of options, where settings were given as options."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from stn_cli.config_problems import ConfigError, shown
from stn_cli.errors import StnError


@contextmanager
def in_words_of_options(names: Mapping[str, str], overrides: Sequence[str]) -> Iterator[None]:
    """Let errors of the block name options instead of settings.

    `names`: what settings are called here, "distortion.canvas" → "--canvas". `overrides`: those that options stand for;
    nobody wrote their text, so messages leave it out.
    """
    try:
        yield
    except ConfigError as error:
        error.problems = tuple(_reworded_problem(problem, names, overrides) for problem in error.problems)
        raise
    except StnError as error:
        sure = {name: called for name, called in names.items() if "." in name}  # seed may be a word, or part of a path
        error.what, error.fix = _reworded(error.what, sure), _reworded(error.fix, sure)
        raise


def _reworded_problem(problem: str, names: Mapping[str, str], overrides: Sequence[str]) -> str:
    """Return a line, `<override>: <setting> <what is wrong>`, without the override."""
    made = "|".join(re.escape(shown(override)) for override in overrides)
    place, rest = re.fullmatch(rf"((?:(?:{made})(?:, |: ))*)(.*)", problem, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess] - both parts may be empty
    reworded = _reworded(rest, names)
    if not place or reworded != rest:
        return reworded
    return f"{_reworded(place.partition('=')[0], names)}: {rest}"


def _reworded(text: str, names: Mapping[str, str]) -> str:
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])({known})(?!\w|\.\w)(=?)", lambda m: names[m[1]] + (m[2] and " "), text)
