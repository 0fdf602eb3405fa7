"""What stands before the values of a safetensors file: for files that are written as a stream."""

import json
import struct
from collections.abc import Mapping, Sequence

import torch

_NAMES = {torch.uint8: "U8", torch.int64: "I64", torch.float32: "F32"}


def safetensors_header(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> bytes:
    """Return the header for tensors by name, (dtype, shape) each, whose values follow in this order, little-endian.

    Wide numbers belong before narrow ones, since values must be aligned to their size.
    """
    content, end = dict[str, object](), 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        content[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(content, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
