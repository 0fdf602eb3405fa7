"""The command `stn`, also `python -m stn_cli`."""

import io
import os
import sys


def main() -> None:
    """Run the command line; every fault ends as one line on stderr and an exit code."""
    from stn_cli.cli.app import app
    from stn_cli.cli.faults import exit_code_of
    from stn_cli.errors import LostRankError

    _make_streams_writable()
    try:
        code = app(prog_name="stn", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # the boundary: everything becomes an exit code here
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            # The reader has gone (`stn list | head -1`): nobody is left to tell. Python would complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        else:
            code = exit_code_of(error, debug="--debug" in sys.argv)
        if isinstance(error, LostRankError):  # threads that still wait for the other would keep Python from ending
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def _make_streams_writable() -> None:
    """Let no character or closed stream end in a traceback: ASCII terminals, odd file names, `stn list >&-`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
