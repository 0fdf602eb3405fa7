"""The file of parameters is the one that safetensors itself would write of all copies at once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet
from stn_cli.datasets.parameters import bytes_per_sample, draw_copies, write_parameters
from stn_cli.storage import sha256_of

PURPOSES = ["train", "train copy 1", "train copy 2"]
KINDS: dict[str, dict[str, Any]] = {
    "R": {"kind": "R"},
    "E": {"kind": "E"},
    "TC": {"kind": "TC", "pieces": 3},
    "TC without pieces": {"kind": "TC", "pieces": 0},
    "addition": {"kind": "addition"},
    "chain": {"kind": "chain", "stages": [{"kind": "P"}, {"kind": "RTS"}, {"kind": "volume"}]},
    "none": {"kind": "none"},
}


@pytest.mark.parametrize("limit", [None, 1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_its_bytes_are_those_of_the_library(tmp_path: Path, kind: str, limit: int | None) -> None:
    source = load_digits()
    scene = build_scene(RunConfig.model_validate({"distortion": KINDS[kind]}).distortion, source)
    loader = BatchLoader(source.train, scene, torch.device("cpu"), own=torch.arange(len(source.train)))
    copies = [FrozenSet(loader, 3, purpose, limit) for purpose in PURPOSES]
    together = {name: torch.cat([copy.parameters[name] for copy in copies]) for name in copies[0].parameters}
    together["source_image"] = torch.arange(len(copies[0])).repeat(3)
    file = tmp_path / "parameters.safetensors"
    found = write_parameters(file, draw_copies(loader, 3, PURPOSES, limit), 3 * len(copies[0]))
    assert file.read_bytes() == save(together)
    assert found == sha256_of(file)
    values = load_file(file).values()
    assert sum(value.nbytes for value in values) == 3 * len(copies[0]) * bytes_per_sample(scene)
