"""From an exception to one line on stderr and an exit code."""

import sys
import traceback
from pathlib import Path

from stn_cli.errors import LostRankError, StnError

INTERRUPTED = 130
BUG = 1
USAGE = 2
RESOURCE = 6


def exit_code_of(error: BaseException, *, debug: bool = False) -> int:
    """Print what went wrong, `error: <what>. <fix>` per problem, and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BUG
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        _say("interrupted.")
        return INTERRUPTED
    if isinstance(error, StnError):
        is_said_by_rank_0 = isinstance(error, LostRankError) and error.rank > 0
        for line in [] if is_said_by_rank_0 else str(error).splitlines():
            _say(line)
        return error.exit_code
    if hasattr(error, "format_message"):  # Typer's own: unknown options, missing arguments, unknown commands
        if type(error).__name__ == "NoArgsIsHelpError":  # `stn` alone
            print(error, file=sys.stderr)
        else:
            _say(_usage_line(error))
        return USAGE
    if line := _resource_line(error):
        _say(line)
        return RESOURCE
    message = " ".join(f"{type(error).__name__}: {error}".split())
    _say(f"this is a bug in stn: {message}. Run again with --debug and report the traceback.")
    return BUG


def write_crash_log(folder: Path, error: BaseException) -> None:
    """Keep the traceback of an error beside the run it stopped."""
    folder.joinpath("crash.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")


def _usage_line(error: BaseException) -> str:
    possibilities = getattr(error, "possibilities", None)
    if possibilities:
        return f"no such option: {getattr(error, 'option_name', '')}. Did you mean {possibilities[0]}?"
    message = " ".join(error.format_message().split()).rstrip(".")  # pyright: ignore[reportAttributeAccessIssue]
    message = message[0].lower() + message[1:] if message else "nothing to do"
    command = getattr(getattr(error, "ctx", None), "command_path", "stn")
    return message if message.endswith("?") else f"{message}. See `{command} --help`."


def _resource_line(error: BaseException) -> str:
    """Return what the machine lacks, or nothing if it is not that."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}. Free some space, or check the path and its permissions."
    if (
        type(error).__name__ in ("MemoryError", "OutOfMemoryError")
        or "out of memory" in str(error)
        or "can't allocate" in str(error)
    ):
        reason = str(error).strip().partition("\n")[0].rstrip(".") or "no more to be had"
        return f"out of memory: {reason}. Lower train.batch_size or model.parameters."
    return ""


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
