"""Test images on a page: the words say what the network reads, the pictures what it sees."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stn_cli.drawing.overlay import ACCENT, COLOURS
from stn_cli.drawing.panels import FRAME
from stn_cli.training.restore import TrainedRun, open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.page import page
from stn_cli.visualize.samples import GAP, Reading, samples

Read = Callable[[str], Any]
Run = Callable[[str], RunFolder]


def pictures(markup: str) -> list[Image.Image]:
    found = [base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", markup)]
    return [Image.open(io.BytesIO(content)).convert("RGB") for content in found]


@pytest.mark.parametrize("model", ["st-cnn", "cnn", "parallel"])
def test_words_say_what_the_network_reads(small_run: Run, read_page: Read, model: str):
    trained = open_trained(small_run(model), "last", [])
    index = torch.tensor([3, 1, 4, 150])
    shown = samples(trained, index, "Some", 100_000)
    read = read_page(page("a", shown))
    with torch.inference_mode():
        batch = trained.test.take(index)
        predicted = trained.network(batch.images).logits.argmax(dim=1).tolist()
    pairs = list(zip(batch.targets.tolist(), predicted, strict=True))
    right = sum(true == guess for true, guess in pairs)
    assert read.all("p")[0].text.startswith(f"Some; {right} of 4 are read rightly. Shown: input")
    for (true, guess), figure in zip(pairs, read.all("figure"), strict=True):
        words = f"{true} read {'rightly' if true == guess else f'as {guess}'}, "
        assert figure.all("img")[0].attributes["alt"].startswith(words)
        assert figure.all("figcaption")[0].text.startswith("✗" if true != guess else str(true))
    assert ("no transformer" in read.text) == (model == "cnn")
    assert "read rightly." not in read_page(page("a", samples(trained, index, "Some", 9, count=False))).all("p")[0].text


def near(strip: Image.Image, colour: str) -> list[int]:
    """Return the columns of a picture that have a colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(np.asarray(strip).astype(int) - wanted).max(axis=2) < 30).any(axis=0).nonzero()[0].tolist()


def shift(trained: TrainedRun, member: int, by: float) -> None:
    """Let a transformer read further to the right, whatever it sees."""
    *_, bias = trained.network.by_place["input"].transformers[member].localisation.parameters()
    with torch.no_grad():
        bias[2] += by


def test_a_strip_shows_the_input_its_grid_and_the_output(small_run: Run):
    trained = open_trained(small_run("st-cnn"), "last", [])
    index = torch.tensor([7, 8])
    shift(trained, 0, 0.25)
    images = trained.test.take(index).images
    with torch.inference_mode():
        outputs = trained.network(images).warps[0].output
    for i, strip in enumerate(pictures(samples(trained, index, "Two", 100_000))):
        # 28 pixels at scale 4, with a margin of 7 round the grid
        assert strip.size == (112 + GAP + 168 + GAP + 112, 168)
        pixels = np.asarray(strip).astype(int)
        for image, left in ((images, 0), (outputs, 292)):
            small = pixels[28:140:4, left : left + 112 : 4, 0]
            assert np.abs(small - 255 * image[i, 0].clamp(0, 1).numpy()).max() <= 0.51
        columns = near(strip, ACCENT)
        assert 118 + 28 + 5 < columns[0] < columns[-1] < 118 + 168


def test_every_image_has_its_own_grid(small_run: Run):
    trained = open_trained(small_run("st-cnn"), "last", [])
    *_, weight, _ = trained.network.by_place["input"].transformers[0].localisation.parameters()
    with torch.no_grad():
        weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    first, second = pictures(samples(trained, torch.tensor([7, 150]), "Two", 100_000))
    for index, strip in ((150, second), (7, first)):
        (alone,) = pictures(samples(trained, torch.tensor([index]), "One", 100_000))
        difference = np.abs(np.asarray(alone).astype(int) - np.asarray(strip))
        assert (difference > 8).mean() < 0.001  # rounding differs with the size of a batch


def test_transformers_in_parallel_have_an_output_each_and_deeper_ones_a_sheet(small_run: Run, read_page: Read):
    index = torch.tensor([0, 1])
    both = open_trained(small_run("parallel"), "last", [])
    shift(both, 1, 0.4)
    for strip in pictures(samples(both, index, "Two", 100_000)):
        assert strip.width == 112 + 168 + 2 * (112 + 2 * FRAME) + 3 * GAP
        over = strip.crop((118, 0, 118 + 168, 168))
        first, second = near(over, COLOURS[0]), near(over, COLOURS[1])
        assert first[0] + 10 < second[0]
        frames = strip.crop((118 + 168, 0, *strip.size))
        assert max(near(frames, COLOURS[0])) < min(near(frames, COLOURS[1]))
    deep = open_trained(small_run("deep"), "last", [])
    shown = samples(deep, index, "Two", 100_000)
    (sheet,) = pictures(shown)
    assert sheet.width > 500
    (image,) = read_page(page("a", shown)).all("img")
    assert re.fullmatch(r"Two; \d of 2 are read rightly\. .* sure; .* sure\.", image.attributes["alt"])


def test_the_same_run_gives_the_same_page_and_pictures_fit_their_bytes(small_run: Run):
    trained = open_trained(small_run("st-cnn"), "last", [])
    first, again = (samples(trained, torch.arange(10), "Ten", 30_000) for _ in range(2))
    assert first == again
    assert sum(len(base64.b64decode(text)) for text in re.findall(r"base64,([^\"]+)", first)) <= 30_000


def test_readings_in_words():
    assert str(Reading("a", "a", 0.5)) == "a read rightly, 50.0 % sure"
    assert str(Reading("a", "<b>", 1.0)) == "a read as <b>, 100.0 % sure"
    assert (Reading("a", "a", 0.5).short, Reading("a", "b", 1).short) == (
        "a, 50.0 % sure",
        "✗ a read as b, 100.0 % sure",
    )
