import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stn_cli import __version__
from stn_cli.config import RunConfig
from stn_cli.errors import CheckpointError, ResourceError, UsageError
from stn_cli.training.run_folder import RunFolder, create_run, find_run, list_runs, write_environment
from stn_cli.training.runtime import Runtime

Small = Callable[..., RunConfig]


def test_a_run_keeps_its_configuration_and_its_name(small: Small) -> None:
    run, config = create_run(small("name=ünï côde", "train.learning_rate=0.3"))
    assert run.path.name == config.name == "ünï côde"
    assert run.read_config() == config
    assert run.read_summary() is None


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model.name=st-cnn", "model.transform=tps", "seed=3"], "digits-r-st-cnn-tps-seed3"),
        (["model.name=cnn", "distortion.kind=RTS"], "digits-rts-cnn-seed0"),
        (["data.dataset=some/where/my-digits"], "my-digits-none-fcn-seed0"),
    ],
)
def test_without_a_name_it_is_made_from_the_settings(small: Small, overrides: list[str], name: str) -> None:
    assert create_run(small(*overrides))[0].path.name == name


def test_a_folder_of_images_is_found_from_everywhere(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, config = create_run(small("data.dataset=my-digits"))
    assert config.data.dataset == run.read_config().data.dataset == str(tmp_path / "my-digits")
    assert create_run(small())[1].data.dataset == "digits"


def test_a_dataset_named_by_dots_gives_its_folders_name(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-digits" / "inner").mkdir(parents=True)
    for folder, dataset in (("my-digits", "."), ("my-digits/inner", "..")):
        monkeypatch.chdir(tmp_path / folder)
        assert create_run(small(f"data.dataset={dataset}"))[0].path.name.startswith("my-digits-none-fcn-seed0")


def test_a_taken_name_gets_the_next_suffix(small: Small) -> None:
    names = [create_run(small("name=a"))[0].path.name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]
    assert [run.path.name for run in list_runs(small().runs_dir)] == names
    assert [run.read_config().name for run in list_runs(small().runs_dir)] == names


def test_overwrite_removes_the_old_run_and_only_a_run(small: Small) -> None:
    run, _ = create_run(small("name=a", "seed=1"))
    run.metrics.write_text("old")
    again, _ = create_run(small("name=a", "seed=2"), overwrite=True)
    assert again == run
    assert [path.name for path in run.path.iterdir()] == ["config.yaml"]
    assert run.read_config().seed == 2
    assert create_run(small("name=new"), overwrite=True)[0].path.is_dir()
    run.path.with_name("empty").mkdir()  # of a run that was killed before it had written anything
    assert create_run(small("name=empty"), overwrite=True)[0].path.name == "empty"

    run.config.unlink()
    (run.path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="is no run, so it is not overwritten"):
        create_run(small("name=a"), overwrite=True)
    assert (run.path / "thesis.tex").read_text() == "precious"


def test_a_run_that_is_going_on_is_not_overwritten(small: Small) -> None:
    run, _ = create_run(small("name=a"))
    with run.lock(), pytest.raises(ResourceError, match=f"in use by process {os.getpid()}"):
        create_run(small("name=a"), overwrite=True)
    assert run.config.is_file()


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".", ".hidden", "a/", "./a"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_leaves_the_runs_folder_is_refused(
    small: Small, tmp_path: Path, name: str, overwrite: bool
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is no name for a run"):
        create_run(small(f"name={name}"), overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_runs_folder_that_cannot_be_is_refused(small: Small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    too_long = f"name={'x' * 300}"
    for overrides in ([f"runs_dir={tmp_path / 'file'}"], [f"runs_dir={tmp_path / 'link'}"], [too_long]):
        for overwrite in (False, True):
            with pytest.raises(ResourceError, match="cannot write"):
                create_run(small(*overrides), overwrite=overwrite)


def test_a_run_is_found_by_path_and_by_name(small: Small, tmp_path: Path) -> None:
    run, config = create_run(small("name=a"))
    assert find_run(str(run.path)) == run
    assert find_run("a", config.runs_dir) == run
    for missing in ("b", "x" * 300, str(tmp_path), ""):
        with pytest.raises(CheckpointError, match="there is no run"):
            find_run(missing, config.runs_dir)


def test_a_second_process_is_refused_by_name_and_a_dead_ones_lock_is_free(small: Small) -> None:
    run, _ = create_run(small("name=a"))
    code = (
        "import sys, time; from pathlib import Path; from stn_cli.training.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        expected = rf"in use by process {other.pid} on {socket.gethostname()}\. Wait for it, or stop it"
        with pytest.raises(ResourceError, match=expected), run.lock():
            pass
        other.send_signal(signal.SIGKILL)
    with run.lock():
        assert f"process {os.getpid()}" in (run.path / ".owner").read_text()
    with run.lock():
        pass
    assert not (run.path / ".owner").exists()


def test_the_lock_is_free_after_an_error(small: Small) -> None:
    run, _ = create_run(small("name=a"))
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock():
        pass


def test_a_folder_without_room_for_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"), RunFolder(tmp_path / "file").lock():
        pass


def test_the_environment_names_versions_machine_and_choice(small: Small) -> None:
    run, _ = create_run(small("name=a"))
    write_environment(run, Runtime(torch.device("cpu"), "bf16", "because"))
    found = json.loads(run.environment.read_text())
    assert found["stn"] == __version__
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert (found["device"], found["precision"], found["why"]) == ("cpu", "bf16", "because")


def test_the_summary_is_what_was_written(small: Small) -> None:
    run, _ = create_run(small("name=a"))
    run.summary.write_text('{"test_error_percent": 1.5}')
    assert run.read_summary() == {"test_error_percent": 1.5}
