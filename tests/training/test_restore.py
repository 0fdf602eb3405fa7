import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stn_cli.config import RunConfig
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import Recipe, write_distorted
from stn_cli.datasets.scene import Single
from stn_cli.datasets.source import Source, Split
from stn_cli.errors import CheckpointError, UsageError
from stn_cli.training.checkpoint import read_checkpoint, step_file
from stn_cli.training.evaluation import evaluate
from stn_cli.training.loop import train
from stn_cli.training.restore import TrainedRun, open_to_resume, open_trained
from stn_cli.training.run_folder import RunFolder, find_run

Small = Callable[..., RunConfig]


@pytest.fixture
def run(small: Small) -> RunFolder:
    config = small("name=run", "model.name=st-cnn", "model.transform=tps")
    list(train(config))
    return find_run("run", config.runs_dir)


def errors(trained: TrainedRun) -> tuple[float, float]:
    found = evaluate(trained.network, trained.test, len(trained.classes), trained.runtime)
    return found.error_percent, found.loss


def weights_are(trained: TrainedRun, file: Path) -> bool:
    saved, state = read_checkpoint(file).part("network."), trained.network.state_dict()
    return saved.keys() == state.keys() and all(torch.equal(saved[name], state[name]) for name in saved)


def test_a_trained_run_reaches_the_error_of_its_summary(run: RunFolder) -> None:
    trained, summary = open_trained(run, "last", []), run.read_summary()
    assert summary is not None
    assert errors(trained) == (summary["test_error_percent"], summary["test_loss"])
    assert (trained.step, trained.classes, trained.run) == (6, tuple("0123456789"), run)
    assert not trained.network.training
    assert weights_are(trained, step_file(run.checkpoints, 6))


def test_the_best_weights_can_be_asked_for(run: RunFolder) -> None:
    trained = open_trained(run, "best", [])
    assert weights_are(trained, run.best)
    assert trained.step == read_checkpoint(run.best).state["step"]


def test_a_run_may_be_moved(run: RunFolder, tmp_path: Path) -> None:
    expected = errors(open_trained(run, "last", []))
    run.path.rename(tmp_path / "elsewhere")
    assert errors(open_trained(RunFolder(tmp_path / "elsewhere"), "last", [])) == expected


@pytest.mark.parametrize("override", ["distortion.kind=E", "distortion.rotation=[0, 0]", "seed=1"])
def test_it_may_be_looked_at_with_another_test_set(run: RunFolder, override: str) -> None:
    own, other = open_trained(run, "last", []), open_trained(run, "last", [override])
    index = torch.arange(len(own.test))
    assert not torch.equal(own.test.take(index).images, other.test.take(index).images)
    assert torch.equal(own.test.targets, other.test.targets)
    assert weights_are(other, step_file(run.checkpoints, 6))


def test_images_of_another_size_are_refused_with_both_sizes(run: RunFolder) -> None:
    with pytest.raises(UsageError, match=r"takes images of 1×28×28, digits under RTS gives 1×42×42") as caught:
        open_trained(run, "last", ["distortion.kind=RTS"])
    assert caught.value.fix == "Choose another distortion, or set distortion.canvas=28."
    open_trained(run, "last", ["distortion.kind=RTS", "distortion.canvas=28"])


def test_another_number_of_classes_is_refused(run: RunFolder, tmp_path: Path) -> None:
    digits = load_digits()
    few = [Split(s.images[s.targets < 3][:20], s.targets[s.targets < 3][:20]) for s in (digits.train, digits.test)]
    source = Source("few", *few, ("0", "1", "2"))
    still = Single(None, source.shape, source.classes)
    list(write_distorted(source, still, Recipe("few", {}, 0, "idx"), tmp_path / "few"))
    with pytest.raises(UsageError, match=f"knows 10 classes, {tmp_path / 'few'} has 3"):
        open_trained(run, "last", [f"data.dataset={tmp_path / 'few'}"])


@pytest.mark.parametrize("override", ["model.transform=affine", "model.name=cnn", "model.parameters=40000"])
def test_another_network_is_refused_with_both_shapes(run: RunFolder, override: str) -> None:
    with pytest.raises(CheckpointError, match=r"belongs to another network \(.*: network .*, checkpoint .*\)"):
        open_trained(run, "last", [override])


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    step_file(run.checkpoints, 6).write_bytes(b"damaged")
    trained = open_trained(run, "last", [])
    assert trained.step == 3
    assert weights_are(trained, step_file(run.checkpoints, 3))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"{step_file(run.checkpoints, 6)} is no checkpoint" in caplog.text


def test_without_a_sound_checkpoint_it_is_refused(run: RunFolder) -> None:
    for file in run.checkpoints.iterdir():
        file.write_bytes(b"damaged")
    for which in ("last", "best"):
        with pytest.raises(CheckpointError, match=r"no sound checkpoint|is no checkpoint"):
            open_trained(run, which, [])
    with pytest.raises(CheckpointError, match="no sound checkpoint"):
        open_to_resume(run, [])


# Every setting there is, with another value than the small run's, and whether a continuation may have it.
OTHERS = {
    "name=other": True,
    "runs_dir=elsewhere": True,
    "data.data_dir=elsewhere": True,
    "data.offline=true": True,
    "train.epochs=9": True,
    "train.iterations=99": True,
    "runtime.threads=1": True,
    "runtime.precision=bf16": True,
    "runtime.convolutions=banded": True,
    "runtime.device=auto": True,
    "runtime.steps=eager": True,
    "log.every=7": True,
    "log.evaluations=3": True,
    "log.images=1": True,
    "seed=5": False,
    "data.dataset=mnist": False,
    "data.labels=elsewhere": False,
    "data.validation=0.2": False,
    "distortion.kind=P": False,
    "distortion.canvas=30": False,
    "distortion.rotation=[-10, 10]": False,
    "model.name=cnn": False,
    "model.transform=affine": False,
    "model.transformers=[{at: conv2}]": False,
    "model.parameters=31000": False,
    "model.pool=1": False,
    "train.recipe=paper": False,
    "train.batch_size=17": False,
    "train.learning_rate=0.2": False,
    "train.schedule=step": False,
    "train.momentum=0.5": False,
    "train.nesterov=false": False,
    "train.weight_decay=0.1": False,
    "train.clip_norm=2": False,
    "train.localisation_optimiser=sgd": False,
    "train.localisation_rate=0.5": False,
    "train.bounds_penalty=1": False,
    "train.roll_back=true": False,
}


def settings(section: dict, prefix: str = "") -> set[str]:
    found = set()
    for key, value in section.items():
        found |= settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


def test_a_continuation_may_differ_in_how_long_and_where_and_in_nothing_else(run: RunFolder) -> None:
    assert {override.partition("=")[0] for override in OTHERS} == settings(run.read_config().model_dump()) | {
        "distortion.kind"
    }
    for override, allowed in OTHERS.items():
        if allowed:
            config, checkpoint, passed = open_to_resume(run, [override])
            assert config != run.read_config()
            assert (checkpoint.state["step"], passed) == (6, [])
        else:
            with pytest.raises(CheckpointError, match=f"{override.partition('=')[0]} .* → "):
                open_to_resume(run, [override])


# A run of four steps, as it was written when a network had one transformer at most.
GOLDEN = Path(__file__).parent / "golden" / "schema-1"


def test_a_run_of_an_older_schema_has_the_error_it_had() -> None:
    run = RunFolder(GOLDEN)
    trained, summary = open_trained(run, "last", []), run.read_summary()
    assert summary is not None
    error, loss = errors(trained)
    assert error == pytest.approx(summary["test_error_percent"], abs=0.5)  # other processors round otherwise
    assert loss == pytest.approx(summary["test_loss"], rel=1e-3)
    saved = load_file(step_file(run.checkpoints, 4))
    assert torch.equal(
        trained.network.by_place["input"].transformers[0].localisation[-1].weight,
        saved["network.transformer.localisation.3.weight"],
    )


def test_a_run_of_an_older_schema_goes_on_with_its_momentum(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    config, checkpoint, passed = open_to_resume(run, ["train.iterations=6"])
    assert passed == []
    names = {name.removeprefix("network.") for name in checkpoint.tensors if name.startswith("network.")}
    moving = {name.removeprefix("momentum.") for name in checkpoint.tensors if name.startswith("momentum.")}
    assert moving == {name for name in names if not name.startswith("normalise.")}
    list(train(config, resume=(run, checkpoint)))
    assert read_checkpoint(step_file(run.checkpoints, 6)).state["step"] == 6
