"""The maps that truly made the samples of a folder, and the way back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.distorted import (
    Recipe,
    choose_format,
    map_samples,
    parameters_file,
    read_distorted,
    write_distorted,
)
from stn_cli.datasets.source import Source, Split
from stn_cli.datasets.true_maps import true_map, undo
from stn_cli.errors import DataError

KINDS: dict[str, dict[str, Any]] = {
    "R": {"kind": "R"},
    "RTS": {"kind": "RTS"},
    "E": {"kind": "E"},
    "T": {"kind": "T"},
    "TC": {"kind": "TC", "pieces": 3},
    "chain": {"kind": "chain", "stages": [{"kind": "R"}, {"kind": "E"}]},
    "addition": {"kind": "addition"},
    "volume": {"kind": "volume", "canvas": 40},
}


def source() -> Source:
    digits = load_digits()
    parts = [Split(s.images[:n], s.targets[:n]) for s, n in ((digits.train, 40), (digits.test, 25))]
    return replace(digits, train=parts[0], test=parts[1])


def write(folder: Path, kind: str) -> Path:
    config = RunConfig.model_validate({"distortion": KINDS[kind]}).distortion
    scene = build_scene(config, source())
    recipe = Recipe("digits", config.model_dump(mode="json"), 0, choose_format(None, scene))
    list(write_distorted(source(), scene, recipe, folder))
    return folder


@pytest.mark.parametrize("kind", ["R", "RTS", "E", "T", "TC", "chain", "addition"])
def test_the_true_map_samples_the_original_into_the_distorted_image_and_undoes_it(tmp_path: Path, kind: str) -> None:
    folder, index = write(tmp_path / "a", kind), torch.tensor([3, 1, 7])
    grid, plain = true_map(folder, "test", index), source().test.images.double()
    saved = load_file(parameters_file(folder, "test"))
    firsts = (
        [(grid, index)] if kind != "addition" else [(grid[:, 0], index), (grid[:, 1], saved["second_image"][index])]
    )
    images = map_samples(folder, "test")[0]
    back = undo(folder, "test", index)
    for channel, (one, which) in enumerate(firsts):
        again = torch.nn.functional.grid_sample(plain[which], one, align_corners=False)[:, 0]
        stored = images[index, channel].double()
        # A piece of clutter is the brighter one of two, and not of this image.
        assert ((again - stored).abs() < 0.51).double().mean() > (0.9 if kind == "TC" else 0.9999)
        error = (back[:, channel] * 255 - plain[which][:, 0]).abs().mean()
        shown = {"TC": 12, "E": 12, "chain": 14}.get(kind, 9)  # of 255; blurred twice, here and there out of view
        assert error < shown
    assert undo(folder).shape[0] == 25


def test_damaged_parameters_are_no_truth(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "R")
    file = parameters_file(folder, "test")
    sound = file.read_bytes()
    for content in (sound[:100], sound[:-1] + bytes([sound[-1] ^ 1])):
        file.write_bytes(content)
        with pytest.raises(DataError, match="is not what was written"):
            true_map(folder)
    file.unlink()
    with pytest.raises(DataError, match="found missing"):
        undo(folder)


def test_volumes_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "volume")
    samples, targets = map_samples(folder, "train")
    assert samples.shape == (40, 1, 40, 40, 40)
    assert torch.equal(targets, source().train.targets)
    grid = true_map(folder, "train", torch.arange(2))
    assert grid.shape == (2, 40, 40, 40, 3)
    inside = (grid.abs() < 0.8).all(dim=-1)
    ink = samples[:2, 0].double()
    again = torch.nn.functional.grid_sample(
        source().train.images[:2].double(), grid[..., :2].flatten(1, 2), align_corners=False
    ).reshape(ink.shape)
    assert (again - ink)[inside].abs().max() < 0.6
    with pytest.raises(DataError, match="holds volumes"):
        read_distorted(folder)
    back, plain = undo(folder, "train", torch.tensor([5, 2])), source().train.images[[5, 2]] / 255
    assert (back - plain).abs().mean() < 0.03
    assert undo(folder).shape == (25, 1, *source().shape[1:])
