import numpy as np
import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

from stn_cli.drawing.pixels import to_picture


def random_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_byte_comes_back():
    image = random_bytes(3, 13, 17)
    assert torch.equal(pil_to_tensor(to_picture(image / 255)), image)


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_enlarging_repeats_pixels(scale):
    image = random_bytes(3, 6, 7)
    repeated = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert torch.equal(pil_to_tensor(to_picture(image / 255, float(scale))), repeated)


def test_shrinking_keeps_a_constant():
    assert np.unique(np.array(to_picture(torch.full((3, 40, 60), 0.5), 0.3))).tolist() == [128]
    assert to_picture(torch.zeros(1, 40, 60), 0.3).size == (18, 12)
    assert to_picture(torch.zeros(1, 40, 60), 0.001).size == (1, 1)


def test_one_channel_is_grey():
    image = random_bytes(1, 5, 5)
    assert torch.equal(pil_to_tensor(to_picture(image / 255)), image.expand(3, -1, -1))


def test_two_channels_are_red_and_cyan():
    image = random_bytes(2, 5, 5)
    assert torch.equal(pil_to_tensor(to_picture(image / 255)), image[[0, 1, 1]])


@pytest.mark.parametrize("channels", [4, 7])
def test_other_channel_counts_show_their_maximum(channels):
    image = random_bytes(channels, 5, 5) / 255
    assert to_picture(image).tobytes() == to_picture(image.amax(0, keepdim=True)).tobytes()


def test_what_is_no_colour_is_clamped():
    image = torch.tensor([[[-1.0, 2.0, torch.nan, torch.inf, -torch.inf]]])
    assert pil_to_tensor(to_picture(image))[0].tolist() == [[0, 255, 0, 255, 0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_float_type_does(dtype):
    image = torch.tensor([[[0.0, 0.5, 1.0]]])  # exact in all of them
    assert to_picture(image.to(dtype).requires_grad_()).tobytes() == to_picture(image).tobytes()
