import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stn_cli.compiled import compiler as building
from stn_cli.compiled.compiler import why_not
from stn_cli.errors import ResourceError

needs_kernels = pytest.mark.skipif(why_not() is not None, reason=f"no compiled kernels: {why_not()}")
ASK = "from stn_cli.compiled.compiler import kernels, why_not; print(why_not() or kernels().stn_lanes())"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing found yet in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(building, "_found", [])
    return tmp_path / "cache" / "stn"


def compiler(folder: Path, *lines: str) -> str:
    """A compiler that leaves a letter in a file at each call, then does what the lines say."""
    script = folder / "compiler.sh"
    script.write_text("\n".join(["#!/bin/sh", f"printf x >> '{folder}/calls'", *lines]) + "\n")
    script.chmod(0o755)
    return str(script)


def asked() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)


def test_where_there_is_a_compiler_there_are_kernels() -> None:
    """Else all tests of them would be skipped, also when they do not compile."""
    if sys.platform == "linux" and any(map(shutil.which, ("c++", "g++"))):
        assert why_not() is None


@needs_kernels
def test_two_processes_at_once_compile_once_and_later_ones_not_at_all(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'exec c++ "$@"'))
    first, second = asked(), asked()
    answers = {process.communicate(timeout=120)[0].strip() for process in (first, second)}
    answers.add(asked().communicate(timeout=60)[0].strip())
    assert answers <= {"4", "8", "16"}
    assert len(answers) == 1
    sources = list(building.SOURCES.glob("*.cpp"))
    assert len((tmp_path / "calls").read_text()) == len(sources) + 1  # and the linker
    assert [path.suffix for path in sorted(cache.iterdir())] == [".so", ".lock"]


def test_another_compiler_or_source_is_compiled_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = compiler(tmp_path)
    names = [building._fingerprint([own]), building._fingerprint([own, "-DX"])]
    Path(own).write_text("#!/bin/sh\nexit 0\n")
    names.append(building._fingerprint([own]))
    sources = tmp_path / "sources"
    sources.mkdir()
    monkeypatch.setattr(building, "SOURCES", sources)
    for name in ("a.cpp", "b.h"):
        (sources / name).write_text("")
        names.append(building._fingerprint([own]))
    assert len(set(names)) == len(names)


def test_without_a_compiler_it_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    for _ in range(2):
        with pytest.raises(ResourceError, match=r"no C\+\+ compiler here \(c\+\+, g\+\+, clang\+\+\)\. Install"):
            building.kernels()
    assert str(building.why_not()).startswith("there is no C++ compiler here (c++, g++, clang++): install a C++ comp")


def test_what_the_compiler_complains_of_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = compiler(tmp_path, "echo 'In file included from x' >&2", "echo 'error: no -fopenmp here' >&2", "exit 1")
    monkeypatch.setenv("CXX", script)
    with pytest.raises(ResourceError, match=r"cannot compile the kernels \(error: no -fopenmp here\)"):
        building.kernels()
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_whatever_is_wrong_with_it_is_one_line(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why() -> str | None:
        building._found.clear()
        return building.why_not()

    monkeypatch.setattr(building, "MOST_SECONDS", 0.2)
    monkeypatch.setenv("CXX", compiler(tmp_path, "exec sleep 60"))
    assert "cannot compile the kernels (not within 0.2 seconds)" in str(why())
    monkeypatch.setattr(building, "MOST_SECONDS", 60)
    monkeypatch.setenv("CXX", compiler(tmp_path, "printf 'error: \\351\\n' >&2", "exit 1"))
    assert "cannot compile the kernels (error: \ufffd)" in str(why())
    monkeypatch.setenv("CXX", "c++ 'x")
    assert "CXX names no compiler (No closing quotation)" in str(why())
    monkeypatch.delenv("CXX")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", staticmethod(homeless))
    assert "there is no home to keep compiled kernels in" in str(why())


@needs_kernels
def test_what_has_begun_clears_what_one_that_was_killed_has_left(cache: Path) -> None:
    left = cache / f"kernels-{building._fingerprint(building._compiler())}.making"
    left.mkdir(parents=True)
    (left / "single-1.o").write_text("half")
    building.begin()
    building.kernels()
    assert [path.suffix for path in sorted(cache.iterdir())] == [".so", ".lock"]


@needs_kernels
def test_nobody_waits_at_the_end_for_what_has_begun(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, f"echo $$ >> '{tmp_path}/processes'", "exec sleep 600"))
    asked_for = len(list(building.SOURCES.glob("*.cpp")))
    seen = f"len(open('{tmp_path}/processes').read().split()) if os.path.exists('{tmp_path}/processes') else 0"
    script = "from stn_cli.compiled.compiler import begin; import os, time; begin()\n"
    script += f"while ({seen}) < {asked_for}: time.sleep(0.01)"
    try:
        assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
    finally:
        for process in (tmp_path / "processes").read_text().split():
            os.kill(int(process), signal.SIGKILL)


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_library_of_another_kind_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, 'for last; do :; done; echo text > "$last"'))
    with pytest.raises(ResourceError, match="cannot be loaded"):
        building.kernels()


@needs_kernels
def test_a_damaged_library_is_made_anew(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / f"kernels-{building._fingerprint(building._compiler())}.so").write_bytes(b"")
    assert building.kernels().stn_lanes() in (4, 8, 16)


def test_a_cache_that_cannot_be_made_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(ResourceError, match=r"cannot be kept in .*XDG_CACHE_HOME"):
        building.kernels()


@pytest.mark.parametrize("convolutions", ["auto", "compiled"])
def test_training_goes_on_without_and_says_so(convolutions: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "stn_cli",
        "train",
        "--model",
        "cnn",
        "--iterations",
        "2",
        "--runs-dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, f"runtime.convolutions={convolutions}", "train.batch_size=8"],
        check=False,
        env=os.environ | {"CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "since there is no C++ compiler here (no-such-compiler)" in done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    assert "compiled" not in (run / "config.yaml").read_text()
