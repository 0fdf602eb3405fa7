"""Joining a Ray cluster, or starting one on this machine; what its machines have and see."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from stn_cli.errors import ResourceError
from stn_cli.experiments.packed import usable_cores
from stn_cli.storage import write_bytes

SHARE = 0.25  # of a GPU: one of the paper's networks leaves most of it idle
REACH = 10.0  # seconds in which a cluster has to answer
STORE = 256 << 20  # bytes of shared memory for a cluster of our own; only files of runs pass through it
# Read by Ray as it is imported: no telemetry, and no word on stdout, where the result of a command belongs.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at an address, or to one that is started here and ends with the block.

    A process that is connected already stays where it is.

    Raises:
        ResourceError: Ray is not installed, or there is no cluster, or it does not let us in.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ResourceError("Ray is not installed", "pip install 'stn-cli[ray]'") from error
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _refuse_silence(address)
    before = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # Ray's handler would end the process, unsaved
        yield
    finally:
        ray.shutdown()


def share_of_gpu(asked: float | None, device: str) -> float:
    """Return the share of a GPU that each run gets, where `asked` leaves it open.

    `device`: cpu, cuda, or auto, which is a GPU if the cluster has one.

    Raises:
        ResourceError: no machine of the cluster has that and a CPU core.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = asked
    if share is None:
        has_gpu = any(machine.get("GPU") for machine in machines)
        share = SHARE if device == "cuda" or (device == "auto" and has_gpu) else 0.0
    if not any(machine.get("CPU", 0) >= 1 and machine.get("GPU", 0) >= share for machine in machines):
        gpu = f" and {share:g} of a GPU" if share else ""
        raise ResourceError(
            f"no machine of the cluster has a CPU core{gpu}", "Add one that has, or set runtime.device."
        )
    return share


@contextmanager
def probed(folders: set[str]) -> Iterator[dict[str, Path]]:
    """Put a file into each folder, under a name that no other one has: who sees it sees this very folder.

    Raises:
        ResourceError: a folder cannot be written.
    """
    probes = {folder: Path(folder) / f".seen-{uuid4().hex}" for folder in folders}
    try:
        for probe in probes.values():
            write_bytes(probe, b"")
        yield probes
    finally:
        for probe in probes.values():
            probe.unlink(missing_ok=True)


def _connect(address: str | None) -> None:
    import ray

    own = {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": STORE}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    except Exception as error:  # Ray's, gRPC's and Python's own
        reason = " ".join(str(error).strip().splitlines()[-1:])
        fix = "If it asks for a token, set RAY_AUTH_MODE=token." if address else "See the logs in /tmp/ray."
        where = f"the Ray cluster at {address} cannot be joined" if address else "no Ray cluster can be started here"
        raise ResourceError(f"{where}: {reason}", fix) from error


def _refuse_silence(address: str) -> None:
    """Ask at the door, since Ray itself would knock for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto" and the like
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(
            f"no Ray cluster answers at {address}: {reason}", "Give the address that `ray start --head` shows."
        ) from error
