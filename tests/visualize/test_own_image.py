"""An image of the user's own: whatever its form, the network gets what it was trained on, and what was done is said."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from stn_cli.config_distortion import AdditionConfig, RTSConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.errors import DataError, UsageError
from stn_cli.training.look import look_at_images
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize import own_image
from stn_cli.visualize.own_image import fit_image, likeliest, own_frames, own_picture, write_own
from stn_cli.visualize.turning import turned


@pytest.fixture(scope="module")
def trained(small_run: Callable[[str], RunFolder]) -> TrainedRun:
    return open_trained(small_run("st-cnn"), "last", [])


@pytest.fixture(scope="module")
def digit() -> Image.Image:
    return Image.fromarray(load_digits().test.images[7, 0].numpy())


def under(trained: TrainedRun, config: RTSConfig | AdditionConfig) -> TrainedRun:
    """The run, if it had been trained under another distortion."""
    source = load_digits()
    loader = BatchLoader(source.test, build_scene(config, source), trained.runtime.device)
    return replace(trained, test=FrozenSet(loader, 0, "test"))


def in_16_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.array(image).astype(np.uint16) * 257)


def on_nothing(image: Image.Image) -> Image.Image:
    white = Image.new("L", image.size, 255)
    return Image.merge("LA", (white, image))


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image,
    "colour": lambda image: image.convert("RGB"),
    "palette": lambda image: image.convert("P"),
    "16 bits": in_16_bits,
    "transparent": on_nothing,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_like_those_of_the_data_set_is_left_as_it_is(
    trained: TrainedRun, digit: Image.Image, tmp_path: Path, form: str
):
    FORMS[form](digit).save(tmp_path / "a.png")
    own = fit_image(tmp_path / "a.png", trained)
    torch.testing.assert_close(own.pixels, torch.from_numpy(np.array(digit))[None, None] / 255, atol=1e-6, rtol=0)
    assert own.hint is None
    assert own.fitted == "28×28 to 28×28" + (", grey" if form == "colour" else "")


def test_dark_on_bright_gets_a_hint_and_inverted_is_the_same(trained: TrainedRun, digit: Image.Image, tmp_path: Path):
    ImageOps.invert(digit).save(tmp_path / "a.png")
    assert fit_image(tmp_path / "a.png", trained).hint == (
        "its border is bright, that of the training images dark: try --invert"
    )
    own = fit_image(tmp_path / "a.png", trained, invert=True)
    torch.testing.assert_close(own.pixels, torch.from_numpy(np.array(digit))[None, None] / 255, atol=1e-6, rtol=0)
    assert (own.hint, own.fitted) == (None, "28×28 to 28×28, inverted")
    digit.save(tmp_path / "b.png")
    hint = fit_image(tmp_path / "b.png", trained, invert=True).hint
    assert hint is not None
    assert hint.endswith("leave --invert out")


@pytest.mark.parametrize(("size", "inside"), [((84, 28), (9, 28)), ((14, 28), (28, 14)), ((280, 280), (28, 28))])
def test_proportions_are_kept_and_the_rest_is_black(
    trained: TrainedRun, tmp_path: Path, size: tuple[int, int], inside: tuple[int, int]
):
    image = Image.new("L", size, 255)
    image.paste(128, (size[0] // 2, 0, *size))
    image.save(tmp_path / "a.png")
    pixels = fit_image(tmp_path / "a.png", trained).pixels[0, 0]
    rows, columns = (int((pixels > 0.4).any(dim=side).sum()) for side in (1, 0))
    assert (rows, columns) == inside
    for side, long in ((1, rows), (0, columns)):
        before = int((pixels > 0.4).any(dim=side).int().argmax())
        assert before in ((28 - long) // 2, (28 - long + 1) // 2)  # in the middle
    assert int((pixels > 0.05).sum()) == rows * columns


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_shown_as_its_camera_was_held(
    trained: TrainedRun, digit: Image.Image, tmp_path: Path, orientation: int
):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    digit.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.array(ImageOps.exif_transpose(image))
    found = fit_image(tmp_path / "a.png", trained).pixels[0, 0]
    torch.testing.assert_close(found, torch.from_numpy(expected) / 255)


def test_it_lies_in_the_middle_of_the_canvas_as_images_do(trained: TrainedRun, digit: Image.Image, tmp_path: Path):
    digit.save(tmp_path / "a.png")
    larger = under(trained, RTSConfig(kind="RTS"))
    own = fit_image(tmp_path / "a.png", larger)
    torch.testing.assert_close(own.pixels, turned(larger, torch.tensor([7]), 0.0).images, atol=1e-5, rtol=0)
    assert own.fitted == "28×28 to 28×28, in the middle of 42×42"


def test_what_cannot_be_shown_is_refused_by_name(trained: TrainedRun, digit: Image.Image, tmp_path: Path):
    Image.new("RGB", (40, 40), "white").save(tmp_path / "blank.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "text.png").write_text("no image")
    said = {"blank.png": "is of one shade", "clear.png": "transparent counts as black"}
    said |= {"text.png": "expected a PNG or JPEG", "missing.png": "there is no image"}
    for name, words in said.items():
        with pytest.raises(DataError, match=words) as fault:
            fit_image(tmp_path / name, trained)
        assert str(tmp_path / name) in str(fault.value)
    digit.save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="takes 2 images at once"):
        fit_image(tmp_path / "a.png", under(trained, AdditionConfig(kind="addition")))


def test_damaged_exif_never_hurts(trained: TrainedRun, digit: Image.Image, tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    digit.save(tmp_path / "a.jpg", exif=exif, quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    start, generator = content.index(b"Exif"), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in generator.integers(start + 6, start + 40, 3):
            damaged[place] = generator.integers(256)
        (tmp_path / "b.jpg").write_bytes(damaged)
        try:
            fit_image(tmp_path / "b.jpg", trained)
        except DataError as error:
            assert "b.jpg" in str(error)  # noqa: PT017 - an image that is read is as good


def test_the_film_goes_from_the_identity_to_the_learned_warp_and_back(
    trained: TrainedRun, digit: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    digit.save(tmp_path / "a.png")
    own = fit_image(tmp_path / "a.png", trained)
    look = look_at_images(trained.network, own.pixels, trained.runtime)
    seen: list[torch.Tensor] = []

    def note(_images: object, now: object, *_: object) -> Image.Image:
        seen.append(now.thetas["input"])  # pyright: ignore[reportAttributeAccessIssue]
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(own_image, "draw_frame", note)
    frames = list(own_frames(own, trained, look))
    middle = len(frames) // 2
    torch.testing.assert_close(seen[0], torch.tensor([[1.0, 0, 0, 0, 1, 0]]))
    assert torch.equal(seen[middle], look.thetas["input"])
    assert all(torch.equal(a, b) for a, b in zip(seen[1:middle], reversed(seen[middle + 1 :]), strict=True))
    assert frames[middle].milliseconds == max(frame.milliseconds for frame in frames)


@pytest.mark.parametrize("name", ["cnn", "parallel", "deep"])
def test_every_network_has_a_picture_and_those_that_warp_a_film(
    small_run: Callable[[str], RunFolder],
    digit: Image.Image,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(own_image, "MOVES", 2)
    trained = replace(open_trained(small_run(name), "last", []), run=RunFolder(tmp_path))
    digit.save(tmp_path / "a.png")
    own = fit_image(tmp_path / "a.png", trained)
    look = look_at_images(trained.network, own.pixels, trained.runtime)
    found = likeliest(look, trained.classes)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)
    assert found[0][0] == trained.classes[look.predicted[0]]
    files = write_own(own, look, trained, "own-a")
    assert [file.name for file in files] == ["own-a.png"] + ([] if name == "cnn" else ["own-a.gif"])
    with Image.open(files[0]) as picture:
        assert np.array_equal(np.array(picture), np.array(own_picture(own, look, trained.classes)))
