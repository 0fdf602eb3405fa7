import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from stn_cli.errors import CheckpointError, ResourceError
from stn_cli.training import checkpoint as module
from stn_cli.training.checkpoint import (
    Checkpoint,
    load_network,
    read_checkpoint,
    read_newest,
    step_file,
    write_checkpoint,
    write_step,
)

STATE = {"step": 7, "best_error": None, "seconds": 0.1 + 0.2, "classes": ["zéro", "0" * 64], "spec": {"mean": [0.1]}}
SMALL = Checkpoint({"network.weight": torch.tensor([1.5, -0.0, 3e38])}, STATE)


def bits(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())


def same(a: Checkpoint, b: Checkpoint) -> bool:
    return a.state == b.state and {k: (v.dtype, v.shape, bits(v)) for k, v in a.tensors.items()} == {
        k: (v.dtype, v.shape, bits(v)) for k, v in b.tensors.items()
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "one.safetensors", SMALL)
    return tmp_path / "one.safetensors"


def test_every_bit_comes_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    floats = torch.randint(-(2**31), 2**31, (1000,), generator=generator).int().view(torch.float32)  # NaNs, denormals
    tensors = {
        "floats": floats,
        "image": torch.rand(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "transposed": torch.rand(3, 4, generator=generator).T,
        "half": torch.rand(5, generator=generator).bfloat16(),
        "count": torch.tensor(2**62 + 1),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False]),
        "learned": nn.Parameter(torch.ones(2)),
    }
    write_checkpoint(tmp_path / "all", Checkpoint(tensors, STATE))
    assert same(read_checkpoint(tmp_path / "all"), Checkpoint(tensors, STATE))


def test_the_same_checkpoint_has_the_same_bytes(tmp_path: Path, path: Path) -> None:
    tensors = {f"network.{i}": torch.full((i,), float(i)) for i in range(20)}
    for name, order in (("a", list(tensors)), ("b", list(reversed(tensors)))):
        write_checkpoint(tmp_path / name, Checkpoint({key: tensors[key] for key in order}, STATE))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_saved_tensor_is_a_copy(path: Path) -> None:
    read_checkpoint(path).tensors["network.weight"].zero_()
    assert same(read_checkpoint(path), SMALL)


def test_others_can_read_the_tensors(path: Path) -> None:
    assert torch.equal(safetensors.torch.load_file(path)["network.weight"], SMALL.tensors["network.weight"])


def test_part_takes_the_prefix_away() -> None:
    whole = Checkpoint({"network.a": torch.ones(1), "momentum.a": torch.zeros(1), "counts": torch.ones(6)}, {})
    assert whole.part("network.") == {"a": whole.tensors["network.a"]}
    assert whole.part("momentum.") == {"a": whole.tensors["momentum.a"]}


def test_every_single_flipped_bit_is_refused(path: Path) -> None:
    content = path.read_bytes()
    places = list(range(8 * len(content)))
    for place in random.Random(0).sample(places, 600) + places[: 8 * 8]:
        mutated = bytearray(content)
        mutated[place // 8] ^= 1 << place % 8
        path.write_bytes(mutated)
        with pytest.raises(CheckpointError, match=r"one\.safetensors (is damaged|is no checkpoint)"):
            read_checkpoint(path)


def test_every_cut_and_every_addition_is_refused(path: Path) -> None:
    content = path.read_bytes()
    zeroed = [content[:at] + bytes(len(content) - at) for at in (0, 8, 100, len(content) - 4)]
    added = [content + b"\0", content + content, b"\0" + content, content + b" "]
    for mutated in [content[:length] for length in range(len(content))] + zeroed + added:
        path.write_bytes(mutated)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_damage_in_several_places_is_refused(path: Path) -> None:
    content, rng = path.read_bytes(), random.Random(1)
    for _ in range(200):
        mutated = bytearray(content)
        for place in rng.sample(range(len(content)), rng.randint(1, 30)):
            mutated[place] = rng.randrange(256)
        at, length = rng.randrange(len(content)), rng.randrange(50)
        mutated[at : at + rng.randrange(50)] = rng.randbytes(length)
        if bytes(mutated) == content:
            continue
        path.write_bytes(mutated)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


class Malice:
    """Runs when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
        return open, (self.target, "w")


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    evidence = tmp_path / "executed"
    torch.save({"network.weight": torch.ones(3), "bad": Malice(evidence)}, tmp_path / "zip.pt")
    torch.save(Malice(evidence), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Malice(evidence)))
    for name in ("zip.pt", "legacy.pt", "plain.pkl"):
        with pytest.raises(CheckpointError, match=f"{name} is no checkpoint of stn"):
            read_checkpoint(tmp_path / name)
    assert not evidence.exists()


def header(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a checkpoint",
        b"\xff" * 100,
        header("{}"),
        header("[]"),
        header('{"__metadata__": {"stn": "1"}}'),
        header('{"__metadata__": {"stn": "{}"}}'),
        header(json.dumps({"__metadata__": {"stn": json.dumps({"schema": 1, "sha256": "", "state": {}})}})),
        header(json.dumps({"__metadata__": {"stn": json.dumps({"schema": 1, "sha256": "\ud800", "state": {}})}})),
        header("[" * 100_000),
        safetensors.torch.save({"weight": torch.ones(3)}),
        safetensors.torch.save({"weight": torch.ones(3)}, metadata={"format": "pt"}),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"one\.safetensors"):
        read_checkpoint(path)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    for where, why in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CheckpointError, match=f"cannot read the checkpoint {where}: {why}"):
            read_checkpoint(where)


def test_a_newer_schema_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(module, "SCHEMA", 3)
        write_checkpoint(path, SMALL)
    with pytest.raises(CheckpointError, match=r"has schema 3, this stn reads 1 to 2\. Upgrade stn"):
        read_checkpoint(path)


def test_names_of_schema_1_become_those_of_today(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {
        "network.transformer.localisation.0.weight": torch.ones(1),
        "momentum.transformer.localisation.0.weight": torch.zeros(1),
        "network.classifier.0.weight": torch.ones(2),
        "counts": torch.ones(5),
    }
    with monkeypatch.context() as older:
        older.setattr(module, "SCHEMA", 1)
        write_checkpoint(path, Checkpoint(tensors, STATE))
    renamed = {name.replace("transformer.", "places.input.members.0."): value for name, value in tensors.items()}
    assert same(read_checkpoint(path), Checkpoint(renamed, STATE))
    write_checkpoint(path, Checkpoint(tensors, STATE))  # under today's schema names are kept
    assert same(read_checkpoint(path), Checkpoint(tensors, STATE))


def test_nan_in_the_state_is_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_checkpoint(path, Checkpoint({}, {"best_error": float("nan")}))
    assert same(read_checkpoint(path), SMALL)


@pytest.mark.parametrize(("owner", "name"), [("os", "fsync"), ("pathlib.Path", "replace"), ("tempfile", "mkstemp")])
def test_a_failed_write_leaves_the_old_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(f"{owner}.{name}", fail)
        with pytest.raises(ResourceError, match="No space left"):
            write_checkpoint(path, Checkpoint({"network.weight": torch.zeros(3)}, {}))
    assert same(read_checkpoint(path), SMALL)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def at_step(step: int) -> Checkpoint:
    return Checkpoint({"network.weight": torch.full((3,), float(step))}, {"step": step})


def test_the_newest_two_steps_stay(tmp_path: Path) -> None:
    for step in (0, 9, 10, 100, 1_000_000_000):
        write_step(tmp_path, step, at_step(step))
        assert same(read_newest(tmp_path)[0], at_step(step))
    assert sorted(tmp_path.iterdir()) == [step_file(tmp_path, 100), step_file(tmp_path, 1_000_000_000)]


def test_the_newest_sound_one_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    for step in (3, 5):
        write_checkpoint(step_file(tmp_path, step), at_step(step))
    write_checkpoint(tmp_path / "best.safetensors", at_step(8))
    step_file(tmp_path, 7).write_bytes(b"")
    step_file(tmp_path, 9).write_bytes(step_file(tmp_path, 5).read_bytes()[:-1])
    found, passed = read_newest(tmp_path)
    assert same(found, at_step(5))
    assert [line.split(" is ")[0] for line in passed] == [str(step_file(tmp_path, 9)), str(step_file(tmp_path, 7))]


def test_damaged_newer_ones_push_no_sound_one_out(tmp_path: Path) -> None:
    for step in (20, 30):
        step_file(tmp_path, step).write_bytes(b"damaged")
    for step in (3, 4, 5):
        write_step(tmp_path, step, at_step(step))
    step_file(tmp_path, 5).write_bytes(b"damaged too")
    assert same(read_newest(tmp_path)[0], at_step(4))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-000000003.safetensors.abc.tmp").write_bytes(b"half")
    write_step(tmp_path, 4, at_step(4))
    assert list(tmp_path.iterdir()) == [step_file(tmp_path, 4)]


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_without_a_sound_one_the_folder_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        step_file(tmp_path, 3).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"no sound checkpoint in {tmp_path}"):
        read_newest(tmp_path)


def test_a_network_takes_exactly_its_own_tensors() -> None:
    source, target = nn.Linear(3, 4), nn.Linear(3, 4)
    load_network(target, source.state_dict(), Path("run"))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_tensors_of_another_network_are_named_with_both_shapes() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 2)).state_dict()
    with pytest.raises(CheckpointError) as caught:
        load_network(network, other, Path("run"))
    assert caught.value.what == (
        "run belongs to another network (0.bias: network 4, checkpoint 5; 0.weight: network 4×3, checkpoint 5×3; "
        "1.weight: network 2×4, checkpoint 2×5; 2 more)"
    )
    with pytest.raises(CheckpointError, match=r"\(2.bias: network none, checkpoint 2; 2.weight"):
        load_network(network, {**before, **{k: v for k, v in other.items() if k.startswith("2")}}, Path("run"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
