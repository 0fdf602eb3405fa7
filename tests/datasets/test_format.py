import pytest
import torch
from torch import Tensor

from stn_cli.datasets.format import Writer

SHAPE, CLASSES = (1, 3, 2), ("a", "b")
IMAGES = torch.arange(30, dtype=torch.uint8).view(5, *SHAPE)
TARGETS = torch.tensor([0, 1, 1, 0, 1])


def writer() -> tuple[Writer, list[tuple[int, Tensor]]]:
    got: list[tuple[int, Tensor]] = []
    return Writer(TARGETS, SHAPE, CLASSES, lambda start, images: got.append((start, images))), got


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_arrive_with_the_number_of_their_first_image(chunk: int) -> None:
    opened, got = writer()
    for images in IMAGES.split(chunk):
        opened.add(images)
    opened.finish()
    assert [start for start, _ in got] == list(range(0, 5, chunk))
    assert torch.equal(torch.cat([images for _, images in got]), IMAGES)


def test_what_is_refused_is_not_written_and_does_not_count() -> None:
    opened, got = writer()
    for wrong in (IMAGES.float(), IMAGES[..., 1:], IMAGES[:, 0], IMAGES.to(torch.int8), IMAGES.repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"expected uint8 images \[1, 3, 2\], 5 in all, found .* after 0"):
            opened.add(wrong)
    assert not got
    opened.add(IMAGES)
    opened.finish()


def test_an_end_too_early_is_noticed() -> None:
    opened, _ = writer()
    opened.add(IMAGES[:3])
    with pytest.raises(ValueError, match="expected 5 images, found 3"):
        opened.finish()


@pytest.mark.parametrize("target", [-1, 2, 256])
def test_a_target_without_a_class_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=r"expected targets in 0\.\.1, found .*"):
        Writer(torch.tensor([0, target, 1]), SHAPE, CLASSES, lambda *_: None)
