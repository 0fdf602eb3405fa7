"""Films: what moves is what the network does, what does not move does not flicker, and files stay small."""

import logging
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageSequence

from stn_cli.training.look import Look, look_at_images
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.warp_history import WarpHistory, history_file
from stn_cli.visualize import animation, training_film, turning
from stn_cli.visualize.animation import Frame, as_gif, draw_frame
from stn_cli.visualize.films import write_films
from stn_cli.visualize.training_film import LAST, training_frames
from stn_cli.visualize.turning import images_to_turn, turned, turning_frames

SmallRun = Callable[[str], RunFolder]


@pytest.fixture(scope="module")
def opened(small_run: SmallRun) -> Callable[[str], TrainedRun]:
    return lambda name: open_trained(small_run(name), "last", [])


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, Look, str]]:
    """What is drawn, instead of drawings."""
    seen: list[tuple[torch.Tensor, Look, str]] = []

    def note(images: torch.Tensor, look: Look, captions: Any, wrong: Any, title: str) -> Image.Image:
        assert len(images) == len(captions) == len(wrong)
        seen.append((images, look, title))
        return Image.new("RGB", (1, 1))

    for film in (turning, training_film):
        monkeypatch.setattr(film, "draw_frame", note)
    return seen


def frames_of(content: bytes) -> list[tuple[np.ndarray, int]]:
    with Image.open(BytesIO(content)) as film:
        assert film.format == "GIF"
        assert film.info["loop"] == 0
        return [(np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(film)]


def moving(count: int) -> Iterator[Frame]:
    """A square that moves, and a ramp that stays, to its right, whereto dithering would carry its errors."""
    ramp = Image.linear_gradient("L").resize((60, 100)).convert("RGB")
    for k in range(count):
        page = Image.new("RGB", (200, 100), "#7a7b7d")
        page.paste("white", (0, 0, 200, 10))
        page.paste(ramp, (140, 0))
        ImageDraw.Draw(page).rectangle((5 + 3 * k, 30, 25 + 3 * k, 50), fill="#a35f07")
        yield Frame(page, 70 if k else 500)


def test_a_film_plays_its_frames_again_and_again_without_flicker():
    frames = list(moving(8))
    found = frames_of(as_gif(frames))
    assert [milliseconds for _, milliseconds in found] == [500] + [70] * 7
    for (pixels, _), frame in zip(found, frames, strict=True):
        assert np.array_equal(pixels[:, 140:], found[0][0][:, 140:])
        assert tuple(pixels[0, 0]) == (255, 255, 255)
        assert np.abs(pixels.astype(int) - np.array(frame.picture)).max() <= 16
    assert as_gif(frames) == as_gif(frames)


def test_a_film_that_would_be_too_large_has_fewer_frames_and_takes_as_long(monkeypatch: pytest.MonkeyPatch):
    frames = list(moving(27))
    monkeypatch.setattr(animation, "MOST_BYTES", len(as_gif(frames)) * 6 // 10)
    found = frames_of(as_gif(frames))
    assert len(found) == 14
    assert sum(milliseconds for _, milliseconds in found) == sum(frame.milliseconds for frame in frames)
    monkeypatch.setattr(animation, "MOST_BYTES", 1)
    assert len(frames_of(as_gif(frames))) == 14  # of fewer none is a film


@pytest.mark.parametrize("name", ["st-cnn", "cnn", "parallel", "deep"])
@pytest.mark.parametrize("count", [1, 4])
def test_every_network_has_frames_of_one_size(opened: Callable[[str], TrainedRun], name: str, count: int):
    trained = opened(name)
    sizes: set[tuple[int, int]] = set()
    for start in (0, 9):
        images = trained.test.take(torch.arange(start, start + count)).images
        look = look_at_images(trained.network, images, trained.runtime)
        sizes.add(draw_frame(images, look, [f"{start} read as 8, 9 %"] * count, [False] * count, "step 7").size)
    ((width, height),) = sizes
    assert 150 <= width <= 720
    assert height <= 900


def test_turning_begins_with_the_images_as_they_are_and_goes_clockwise(opened: Callable[[str], TrainedRun]):
    trained, index = opened("st-cnn"), torch.tensor([3, 8])
    upright, quarter = (turned(trained, index, degrees).images for degrees in (0.0, 90.0))
    torch.testing.assert_close(upright, trained.test.loader._split.images[index] / 255)
    torch.testing.assert_close(quarter, upright.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned(trained, index, 360.0).images, upright, atol=1e-4, rtol=0)


def test_images_of_other_classes_turn_through_a_circle(
    opened: Callable[[str], TrainedRun], looks: list[tuple[torch.Tensor, Look, str]]
):
    trained = opened("st-cnn")
    index = images_to_turn(trained)
    assert len(set(trained.test.targets[index].tolist())) == len(index) == 4
    frames = list(turning_frames(trained))
    degrees = [float(title.removeprefix("turned by ").removesuffix("°")) for _, _, title in looks]
    assert degrees == [360 * k / len(frames) for k in range(len(frames))]  # so the last is as far from the first
    images, look, _ = looks[5]
    torch.testing.assert_close(images, turned(trained, index, degrees[5]).images)
    own = look_at_images(trained.network, images, trained.runtime)
    assert torch.equal(own.probabilities, look.probabilities)


def history_of(trained: TrainedRun, records: int) -> WarpHistory:
    batch = trained.test.take(torch.arange(6))
    theta = look_at_images(trained.network, batch.images, trained.runtime).thetas
    steps = tuple(10 * (k + 1) for k in range(records))
    moved = {name: torch.stack([own + (records - k - 1) / 9 for k in range(records)]) for name, own in theta.items()}
    predicted = torch.zeros(records, 6, dtype=torch.int64)
    return WarpHistory((255 * batch.images).round().byte(), batch.targets, steps, moved, predicted)


@pytest.mark.parametrize("name", ["st-cnn", "parallel", "deep"])
@pytest.mark.parametrize("records", [1, 3, 30])
def test_a_training_goes_from_the_identity_through_every_record(
    opened: Callable[[str], TrainedRun], looks: list[tuple[torch.Tensor, Look, str]], name: str, records: int
):
    trained = opened(name)
    history = history_of(trained, records)
    frames = list(training_frames(trained, history))
    assert frames[-1].milliseconds == LAST
    between, rest = divmod(len(frames) - 1, records)
    assert rest == 0
    assert len(frames) <= 65
    for theta_name, recorded in history.thetas.items():
        shown = torch.stack([look.thetas[theta_name] for _, look, _ in looks])
        assert shown[0].unique(dim=0).shape[0] == 1  # the identity, the same for every image
        torch.testing.assert_close(shown[between::between], recorded[:, : shown.shape[1]])
    for output in looks[0][1].places[0].outputs:
        torch.testing.assert_close(output, looks[0][1].places[0].maps, atol=1e-5, rtol=0)
    assert [title for *_, title in looks][::between] == [
        f"step {step} of {10 * records}" for step in (0, *history.steps)
    ]


def test_films_are_files_and_a_damaged_history_is_said(
    opened: Callable[[str], TrainedRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(turning, "FRAMES", 2)
    trained = opened("cnn")
    elsewhere = TrainedRun(**{**vars(trained), "run": RunFolder(tmp_path)})
    assert [file.name for file in write_films(elsewhere)] == ["turning.gif"]
    assert len(frames_of((tmp_path / "plots" / "turning.gif").read_bytes())) == 2
    history_file(elsewhere.run).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING, "stn"):
        assert len(list(write_films(elsewhere))) == 1
    assert "there is no film of the training" in caplog.text
