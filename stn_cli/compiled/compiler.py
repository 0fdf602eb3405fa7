"""Our own kernels for CPUs: compiled once on the machine that they run on, for its processor, and kept.

A compiler is no dependency: where there is none, PyTorch's operations do the same, and who chooses between them says
so. Compiled here rather than beforehand, the kernels use what the processor has.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stn_cli.errors import ResourceError

SOURCES = Path(__file__).parent
# Loops are unrolled where they say so, so -O3 adds half a second of compiling and nothing else.
FLAGS = ("-std=c++17", "-O2", "-march=native", "-fopenmp", "-fno-math-errno", "-Wno-psabi", "-fPIC")
MOST_SECONDS = 120
FIX = "Install a C++ compiler with OpenMP (g++), or choose other runtime.convolutions."

_lock = threading.Lock()
_found: list[ctypes.CDLL | ResourceError] = []


def kernels() -> ctypes.CDLL:
    """Return the kernels, compiled if they are not there yet, which takes some 4 seconds.

    Raises:
        ResourceError: they cannot be compiled, kept or loaded here; said again at each call.
    """
    with _lock:
        if not _found:
            try:
                _found.append(_loaded())
            except ResourceError as error:
                _found.append(error)
    found = _found[0]
    if isinstance(found, ResourceError):
        raise ResourceError(found.what, found.fix)
    return found


def why_not() -> str | None:
    """Return why there are no kernels here and how to mend it, in words that follow "since"; None where there are."""
    try:
        kernels()
    except ResourceError as error:
        return f"{error.what}: {error.fix[0].lower()}{error.fix[1:].rstrip('.')}"
    return None


def begin() -> None:
    """Compile, where it has to be done, while other things are loaded. What goes wrong, `kernels` says."""

    def work() -> None:
        with suppress(ResourceError):
            _kept()

    threading.Thread(target=work, daemon=True, name="compiler").start()


def _loaded() -> ctypes.CDLL:
    path = _kept()
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # damaged, perhaps
        path.unlink(missing_ok=True)
    try:
        return ctypes.CDLL(str(_kept()))
    except OSError as error:
        raise ResourceError(f"compiled kernels cannot be loaded ({error})", FIX) from error


def _kept() -> Path:
    """Return the compiled library for this source, compiler and processor."""
    compiler = _compiler()
    fix = "Make it writable, or name another by XDG_CACHE_HOME."
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stn"
    except RuntimeError as error:  # an account without one
        raise ResourceError(f"there is no home to keep compiled kernels in ({error})", fix) from error
    path = folder / f"kernels-{_fingerprint(compiler)}.so"
    try:
        if path.exists():
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=MOST_SECONDS):
            if not path.exists():  # who held the lock may have made it
                _compile(compiler, path)
    except (OSError, Timeout) as error:
        raise ResourceError(f"compiled kernels cannot be kept in {folder} ({error})", fix) from error
    return path


def _compile(compiler: list[str], path: Path) -> None:
    """Make the library, while the lock is held. Who is killed meanwhile leaves a folder that the next one clears."""
    folder, own = path.with_suffix(".making"), os.getpid()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    try:
        objects = {source: folder / f"{source.stem}-{own}.o" for source in sorted(SOURCES.glob("*.cpp"))}
        command, made = [*compiler, *FLAGS], folder / f"{own}.so"
        _run([[*command, "-c", str(source), "-o", str(made_of_it)] for source, made_of_it in objects.items()])
        _run([[*command, "-shared", *map(str, objects.values()), "-o", str(made)]])
        with made.open("rb") as file:
            os.fsync(file)  # a name without its content, after a crash, would end whoever loads it, by SIGBUS
        made.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(commands: list[list[str]]) -> None:
    """Run commands, whose last word is what they make, at the same time. At the end none of them runs any more."""
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []
    try:
        for command in commands:
            said = Path(f"{command[-1]}.said")
            with said.open("wb") as file:  # no pipe: the compiler's own children would hold it open
                running.append((said, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)))
        for said, process in running:
            if process.wait(MOST_SECONDS):
                lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                lines = lines or [f"it ended with {process.returncode}"]
                telling = (line for line in lines if "error:" in line and " exit " not in line)
                raise _refused(commands, next(telling, lines[0]))
    except subprocess.TimeoutExpired as error:
        raise _refused(commands, f"not within {error.timeout:g} seconds") from error
    except OSError as error:
        raise _refused(commands, str(error)) from error
    finally:
        for _, process in running:
            process.kill()
            process.wait()


def _refused(commands: list[list[str]], why: str) -> ResourceError:
    return ResourceError(f"{commands[0][0]} cannot compile the kernels ({why})", FIX)


def _compiler() -> list[str]:
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise ResourceError(f"CXX names no compiler ({error})", FIX) from error
    for candidate in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        found = shutil.which(candidate[0])
        if found is not None and sys.platform != "win32":
            return [found, *candidate[1:]]
    raise ResourceError(f"there is no C++ compiler here ({' '.join(named) or 'c++, g++, clang++'})", FIX)


def _fingerprint(compiler: list[str]) -> str:
    """Return what changes whenever the compiled kernels would."""
    binary = Path(compiler[0]).resolve()
    state = binary.stat()
    parts = [*compiler, *FLAGS, str(binary), str(state.st_size), str(state.st_mtime_ns), *_processor()]
    parts += [path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]*"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _processor() -> Iterator[str]:
    """Yield what says which instructions the processor has."""
    yield from (platform.system(), platform.machine(), platform.processor())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:  # another system; its own names have to do
        return
    yield from (line for line in lines if line.partition(":")[0].strip() in ("model name", "flags", "Features"))
