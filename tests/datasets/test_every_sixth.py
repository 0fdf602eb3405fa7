import pytest
import torch

from stn_cli.datasets.every_sixth import hold_out_every_sixth
from stn_cli.datasets.source import Split
from stn_cli.errors import DataError


def numbered(targets: torch.Tensor) -> Split:
    """Images that hold their own place, so that one can see where they went."""
    place = torch.arange(len(targets))
    return Split(torch.stack([place // 256, place % 256], dim=1).to(torch.uint8).view(-1, 1, 1, 2), targets)


def test_every_sixth_of_each_class_is_held_out():
    targets = torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(0))
    whole = numbered(targets)
    train, test = hold_out_every_sixth(whole, "here")
    seen = [0] * 7
    expected = []
    for place, target in enumerate(targets.tolist()):
        seen[target] += 1
        if seen[target] % 6 == 0:
            expected.append(place)
    assert torch.equal(test.images, whole.images[expected])
    assert torch.equal(test.targets, targets[expected])
    rest = sorted(set(range(500)) - set(expected))
    assert torch.equal(train.images, whole.images[rest])
    assert torch.equal(train.targets, targets[rest])


@pytest.mark.parametrize("targets", [[0] * 6, [0] * 5 + [1] * 6, [3, 0, 3, 1, 3, 2, 3, 3, 3]])
def test_six_images_of_one_class_are_enough(targets):
    train, test = hold_out_every_sixth(numbered(torch.tensor(targets)), "here")
    assert len(test) == 1
    assert sorted(set(train.targets.tolist())) == sorted(set(targets))


def test_too_few_are_named():
    with pytest.raises(DataError, match=r"here: expected six images of a class, .* found at most 5"):
        hold_out_every_sixth(numbered(torch.tensor([0, 1] * 5)), "here")
