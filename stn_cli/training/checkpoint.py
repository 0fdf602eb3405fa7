"""Checkpoints: one safetensors file each, written atomically, with a SHA-256 over every byte of it. No pickle.

The file's header carries, under "stn", a JSON text with the schema version, the run's state and the digest of the
whole file, computed with 64 zeros in the digest's place.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from stn_cli.errors import CheckpointError
from stn_cli.storage import writing

SCHEMA = 2
READABLE = (1, 2)  # in 1 a network has one transformer at most, at the input, under another name
UNSIGNED = "0" * 64
KEEP = 2  # newest step checkpoints that stay, so that one that went bad on disk leaves another
FIX = "Choose another checkpoint of the run, or train again."


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the state of the run (JSON values) at one step."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `prefix`, without it."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def write_checkpoint(path: Path, checkpoint: Checkpoint, *, durable: bool = True) -> None:
    """Write a checkpoint atomically, and so that it outlives a loss of power if `durable`.

    Raises:
        ResourceError: the disk is full or the folder not writable; an older file of that name is intact.
    """
    text = json.dumps({"schema": SCHEMA, "sha256": UNSIGNED, "state": checkpoint.state}, allow_nan=False)
    # One metadata key: safetensors writes several in the random order of a hash map.
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in sorted(checkpoint.tensors.items())}
    content = save_tensors(tensors, metadata={"stn": text})
    digest = hashlib.sha256(content).hexdigest()
    with writing(path, durable=durable) as output:
        output.write(content.replace(UNSIGNED.encode(), digest.encode(), 1))


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a file.

    Raises:
        CheckpointError: the file is missing, damaged, not one of ours, or of a newer version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}", FIX) from error
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["stn"])
        digest, schema, state = str(header["sha256"]), header["schema"], header["state"]
        unsigned = content.replace(digest.encode(), UNSIGNED.encode(), 1)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no checkpoint of stn, or a damaged one", FIX) from error
    found = hashlib.sha256(unsigned).hexdigest()
    if found != digest:
        raise CheckpointError(f"{path} is damaged: sha256 {digest} was written, {found} is found", FIX)
    if schema not in READABLE:
        raise CheckpointError(f"{path} has schema {schema}, this stn reads {READABLE[0]} to {SCHEMA}", "Upgrade stn.")
    try:
        tensors = load_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", FIX) from error
    if schema == 1:
        tensors = {name.replace(".transformer.", ".places.input.members.0.", 1): t for name, t in tensors.items()}
    return Checkpoint(tensors, state)


def step_file(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"step-{step:09d}.safetensors"


def write_step(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint of a step and remove all but the newest ones up to it.

    Later ones, which a resume passed over because they are damaged, push no sound one out.
    """
    written = step_file(folder, step)
    write_checkpoint(written, checkpoint)
    older = sorted(path for path in folder.glob("step-*.safetensors") if path <= written)[:-KEEP]
    for old in [*older, *folder.glob(".*.tmp")]:  # temporary files of a process that was killed while it wrote
        old.unlink(missing_ok=True)


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint, sound or not; None where there is none."""
    names = [path.stem.removeprefix("step-") for path in folder.glob("step-*.safetensors")]
    return max((int(name) for name in names if name.isdecimal()), default=None)


def read_newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest sound checkpoint of a run, and a line about each newer one that was passed over.

    Raises:
        CheckpointError: there is no sound one.
    """
    passed: list[str] = []
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            return read_checkpoint(path), passed
        except CheckpointError as error:
            passed.append(error.what)
    reason = f": {passed[0]}" if passed else ""
    raise CheckpointError(f"there is no sound checkpoint in {folder}{reason}", "Train again.")


def load_network(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a network.

    Raises:
        CheckpointError: a name or a shape differs; the message names the first few with both shapes.
    """
    own = network.state_dict()
    differing = [
        f"{name}: network {_shape(own.get(name))}, checkpoint {_shape(tensors.get(name))}"
        for name in sorted(own.keys() | tensors.keys())
        if _shape(own.get(name)) != _shape(tensors.get(name))
    ]
    if differing:
        shown = "; ".join(differing[:3]) + (f"; {len(differing) - 3} more" if len(differing) > 3 else "")
        raise CheckpointError(f"{path} belongs to another network ({shown})", "Use the configuration it was made with.")
    network.load_state_dict(tensors)


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else "×".join(map(str, tensor.shape)) or "scalar"
