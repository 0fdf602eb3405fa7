import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from stn_cli.datasets.digits import enlarge, load_digits
from stn_cli.datasets.source import Split


def digest(split: Split) -> str:
    return hashlib.sha256(split.images.numpy().tobytes() + split.targets.numpy().astype("<i8").tobytes()).hexdigest()


def test_digits_are_the_same_bytes_everywhere():
    source = load_digits()
    assert digest(source.train) == "0fbbd93ff41b937910d40debe8d733d1f6cc42318731e578d5297cbcaf95e6b6"
    assert digest(source.test) == "185b1181a2a82296bc7a58db0d9f6d5469ce9ff328509329bc85b4eb232d8761"


def test_every_class_is_there_in_both_splits():
    source = load_digits()
    assert source.classes == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert source.train.targets.bincount().tolist() == [128, 131, 128, 132, 130, 131, 130, 129, 128, 130]
    assert source.test.targets.bincount().tolist() == [50, 51, 49, 51, 51, 51, 51, 50, 46, 50]


def test_images_are_laid_out_like_mnist():
    source = load_digits()
    for split, count in ((source.train, 1297), (source.test, 500)):
        assert split.images.shape == (count, 1, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.images[..., 4:24, 4:24].sum() == split.images.sum()  # the frame of 4 pixels is black
        assert split.images.max() == 255


def test_enlargement_is_pillows_catmull_rom():
    """Pillow's BICUBIC has a = -1/2 too; it sees our replicated edge as a margin that lies outside the box."""
    images = torch.randint(0, 17, (200, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for image, ours in zip(images[:, 0].numpy(), enlarge(images)[:, 0].numpy(), strict=True):
        margin = Image.fromarray(np.pad(image, 2, mode="edge").astype(np.float32) * (255 / 16))
        theirs = np.asarray(margin.resize((20, 20), Image.Resampling.BICUBIC, box=(2, 2, 10, 10)))
        np.testing.assert_allclose(ours, theirs.clip(0, 255), rtol=0, atol=0.5 + 1e-3)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (1, 16), (8, 128), (16, 255)])
def test_enlargement_keeps_constants(value, expected):
    image = torch.full((1, 1, 8, 8), value, dtype=torch.uint8)
    assert torch.equal(enlarge(image), torch.full((1, 1, 20, 20), expected, dtype=torch.uint8))


def test_enlargement_knows_no_direction():
    images = torch.randint(0, 17, (20, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)):
        assert torch.equal(enlarge(turn(images)), turn(enlarge(images)))


def test_embedded_digits_are_those_of_scikit_learn():
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    source = load_digits()
    images = enlarge(torch.from_numpy(theirs.images).to(torch.uint8).unsqueeze(1))
    assert torch.equal(torch.cat([source.train.images, source.test.images])[..., 4:24, 4:24], images)
    assert torch.cat([source.train.targets, source.test.targets]).tolist() == theirs.target.tolist()
