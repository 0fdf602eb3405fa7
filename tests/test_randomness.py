import random

import numpy as np
import torch

from stn_cli.randomness import derive_seed, named_generator


def first_numbers(seed: int, purpose: str, *counters: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=named_generator(seed, purpose, *counters)).tolist())


def test_the_derivation_never_changes() -> None:
    """Frozen test sets and resumed runs rest on these numbers: 63 bits of the SHA-256 of `(0, "weights", ())`."""
    assert derive_seed(0, "weights") == 3468280300569508868
    assert derive_seed(7, "distortion", 3, 14) == 8386651623884864778


def test_same_name_same_numbers_other_name_other_numbers() -> None:
    names = [(s, p, *c) for s in (0, 1, 10) for p in ("weights", "order") for c in ((), (0,), (1,), (10,), (1, 0))]
    streams = [first_numbers(*name) for name in names]
    assert len(set(streams)) == len(names)
    assert streams == [first_numbers(*name) for name in names]


def test_counters_are_told_apart() -> None:
    assert len({derive_seed(0, "x", 1, 23), derive_seed(0, "x", 12, 3), derive_seed(0, "x", 123)}) == 3


def test_seeds_are_63_bits_and_fill_them() -> None:
    seeds = [derive_seed(0, "order", step) for step in range(1000)]
    assert 0 <= min(seeds) < 2**56
    assert 2**63 - 2**56 < max(seeds) < 2**63


def test_global_generators_are_neither_read_nor_written() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    before = first_numbers(0, "order", 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    torch.rand(3)
    assert first_numbers(0, "order", 5) == before
