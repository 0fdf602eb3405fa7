"""The promise: parameters and samples have the same bytes on every machine, however many threads it has.

A test cannot change the machine it runs on, so the hashes below were computed once, and every machine that runs this
file must find them again. A deliberate change of a kind, of the embedded digits or of how numbers are drawn needs new
ones, which

    python tests/distortions/test_same_bytes.py

prints, to be copied into `GOLDEN`. What was written before can then not be written again byte for byte: say so in the
CHANGELOG.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_cli.config import RunConfig
from stn_cli.datasets.build import build_scene
from stn_cli.datasets.digits import load_digits
from stn_cli.datasets.loader import BatchLoader, FrozenSet

TURNED = {"kind": "volume", "canvas": 40, "rotation": (-40, 40)}
KINDS: dict[str, dict[str, Any]] = {
    "R": {"kind": "R"},
    "RTS": {"kind": "RTS"},
    "P": {"kind": "P"},
    "E": {"kind": "E"},
    "T": {"kind": "T"},
    "TC": {"kind": "TC"},
    "addition": {"kind": "addition"},
    "volume": {"kind": "volume", "canvas": 40},
    "volume, turned": TURNED,
    "chain": {"kind": "chain", "stages": ({"kind": "R"}, {"kind": "E"}, {"kind": "TC"})},
    "chain into a volume": {"kind": "chain", "stages": ({"kind": "P"}, {"kind": "RTS"}, TURNED)},
    "E, as far as it goes": {"kind": "E", "canvas": 64, "scale": (0.05, 4), "control_point_sigma": 100},
    "P, as far as it goes": {"kind": "P", "canvas": 64, "scale": (0.05, 4), "corner_sigma": 100},
}
# SHA-256 of the parameters, their names in alphabetical order, and of the samples of the first 64 test digits.
GOLDEN: dict[str, list[str]] = {
    "R": [
        "326204ffd983b3037e55fd4bf74efb03183c4e21ebed68f9d5c91d2e365e7c50",
        "5b22eda04657eedcc04c82d512d3334eaa5457c767bcd4d8ba744b61bc534642",
    ],
    "RTS": [
        "d93b59d1b9625b1408b3a721e48b82a5e46df37ce9dc4899f78e8d64738c4b79",
        "41409f944d4aee965f6273ff7f6fcf230720dd53d12d942124d8c58ebeb3cf60",
    ],
    "P": [
        "55185ca831bf567adf6f3ace4151d3124d17118846603a10b73cb6e107d41925",
        "462e69e388ab405fea90ef10b647879757fefe704487e64c66318f99a22a53b5",
    ],
    "E": [
        "293aaa81642f896ec1984e3cd29fbfe326dc5dc0e53b823717636e12ebea8177",
        "a92eb0208d0e6edbc484c083914eba4fac10289866117f04e72bbd92996dd1ea",
    ],
    "T": [
        "5cb14876424b44a652880eb688fb5304dca7a18c2ff9a19e896c8bd416c65728",
        "a5ce65ed3cc3f35d7d1505a65d37c01395e64699740dd9ce084b39ecf10a94e4",
    ],
    "TC": [
        "6582f8dd0cf56f1fbe73e90f931065b7da8019dafe1b6b3231b708b6d647160a",
        "a30d9783a231427fbd78e62eaf7d7bd9be38747bb51b8cf6738612e5222e0cf9",
    ],
    "addition": [
        "7e2648cc45adc77716c570dfd4ffa6f2cb52056530b60ca07dd7a00597ece10c",
        "8589bbca8623e59c46085631c06058e8527e1130a8ef4852efddab878c44e341",
    ],
    "volume": [
        "888a869b236a58ca5259b82826441facb458d82540a79d816a8a814e2e797bc5",
        "a2f7d30126684f903e1d508a4ad84293b046c1e88894ca7a14fb0db4d58e077d",
    ],
    "volume, turned": [
        "831e2c4da00bae06a44b3bd348e2125d54d2ad49d7532a94febd911fa76e3519",
        "de0a1363864971d31cdd20c417b369cc753a9fd6153de24e3f4516994eac80d9",
    ],
    "chain": [
        "9ffd2300de9b8eff12b1766e0d7f280cfe7be0de4ecee4e680dab18d48b47601",
        "2cb0b9df0198dd0fb2a31b42e86181241da630d8b599f5b84fa821a62183dd2b",
    ],
    "chain into a volume": [
        "747d930a493dce6eaefb95457cde26e81c9c293fad4b652a1de917f5f3281094",
        "ce0563fe93edf61f415411a6a14e9051a6667ff9f31c4ecbc971dfa8b3774d04",
    ],
    "E, as far as it goes": [
        "81a16faec0d585d4fe425c1406a118addff314201e8d24409863ce0fa6efe9fe",
        "cbf1821940162452db50893bbea660f7bca4d1183064640c6cd1bcf8f9897b61",
    ],
    "P, as far as it goes": [
        "f4a479d4af79fc2d94522b53b43415c03649dac0299a2a17d60f3d74052cc92a",
        "4a9237b7f988f568caff4c6f090e62cfb26c7321c7d7f1512b83d20dcd7e09a5",
    ],
}
# The vector widths that this processor has, besides the one that is used here. PyTorch believes what it is told.
WIDTHS = ["DEFAULT", "AVX2", "AVX512"]
HERE = torch.backends.cpu.get_cpu_capability()
NARROWER = WIDTHS[: WIDTHS.index(HERE)] if HERE in WIDTHS else []
SETTINGS = {
    "threads and matrix products": {
        "OMP_NUM_THREADS": "2",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    **{width: {"ATEN_CPU_CAPABILITY": width.lower()} for width in NARROWER},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def frozen(kind: str, count: int = 64) -> FrozenSet:
    """The first test digits."""
    source = load_digits()
    scene = build_scene(RunConfig.model_validate({"distortion": KINDS[kind]}).distortion, source)
    return FrozenSet(BatchLoader(source.test, scene, torch.device("cpu")), 0, "test", count)


def sha256(values: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(values[name].contiguous().numpy().tobytes() for name in sorted(values))).hexdigest()


def hashes() -> dict[str, list[str]]:
    """What `GOLDEN` holds, computed here."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        samples = frozen(kind)
        found[kind] = [sha256(samples.parameters), sha256({"": samples.render(torch.arange(64))})]
    return found


def test_this_machine_makes_the_bytes_of_all_others() -> None:
    assert hashes() == GOLDEN


@pytest.mark.parametrize("setting", SETTINGS)
def test_threads_and_vector_widths_change_no_byte(setting: str) -> None:
    environment = os.environ | SETTINGS[setting]
    run = subprocess.run([sys.executable, __file__], check=True, capture_output=True, env=environment, text=True)
    assert json.loads(run.stdout) == GOLDEN
    width = setting if setting in NARROWER else HERE
    assert run.stderr.splitlines()[-1] == f"{width} {environment.get('OMP_NUM_THREADS')}"


@every_kind
def test_chunks_change_no_byte(kind: str) -> None:
    samples = frozen(kind, 15)
    whole = samples.render(torch.arange(15))
    for size in (1, 7):
        assert torch.equal(torch.cat([samples.render(index) for index in torch.arange(15).split(size)]), whole)
    assert torch.equal(samples.render(torch.tensor([11, 3])), whole[[11, 3]])
    assert torch.equal(frozen(kind).render(torch.arange(64))[:15], whole)


if __name__ == "__main__":
    print(json.dumps(hashes(), indent=4))
    print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), file=sys.stderr)
