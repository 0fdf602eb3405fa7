"""Named random generators: one per purpose, each derived from (seed, purpose, counters)."""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed for one purpose ("weights", "order", "distortion", …) and place (epoch, step, block).

    Different purposes and counters give unrelated streams, so a resumed run needs no replay and evaluation
    never disturbs training. The derivation is SHA-256, hence the same on every machine and Python.
    """
    text = repr((seed, purpose, counters))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a CPU generator for one purpose. Drawing on the CPU gives every device the same numbers.

    PyTorch's CPU generator takes 32 bits of the seed, so of 150,000 steps two or three pairs share a stream.
    """
    return torch.Generator("cpu").manual_seed(derive_seed(seed, purpose, *counters))


def device_generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Return a generator for one purpose that draws on a CUDA device: what is drawn there can be part of a CUDA graph.

    Its algorithm, Philox, counts: every number follows from the seed and an offset, which `set_offset` puts anywhere.
    The numbers are other ones than a CPU generator's, and may differ between kinds of GPU.
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))
