"""The process of packed runs: one core, one thread, one run after another."""

import faulthandler
import os
import pickle
import re
import signal
import socket
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

GRACE = 10.0  # seconds to save and stop in


def main(descriptor: int) -> None:
    """Train what comes in until nobody is left to tell.

    `descriptor`: a socket. Pairs of a job and whether to overwrite come in; events, Failed, and pairs of
    bytes downloaded and to come go out. When its other end is gone, so is whoever started this process, however it
    died; then the run saves and stops, and the process ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # between runs there is nothing to save; and a shell's `&` ignores SIGINT
    faulthandler.enable()  # a crash in native code says where
    claim = _claim_core()  # noqa: F841 - held until the process ends
    connection = Connection(descriptor)
    orders: SimpleQueue[bytes | None] = SimpleQueue()
    Thread(target=_receive, args=(connection, orders), daemon=True).start()

    def tell(message: object) -> None:
        with suppress(OSError):  # nobody is there any more; the thread sees it and stops the run
            connection.send(message)

    from stn_cli.experiments.runner import Failed

    while (order := orders.get()) is not None:
        job, overwrite = pickle.loads(order)
        try:
            from stn_cli.training.runtime import choose_runtime, keep_freed_memory

            keep_freed_memory()
            # Settled here, before a run tries out what is fastest for it: so all of them have the same.
            job = job.with_runtime(precision=choose_runtime(job.config.runtime).precision)
            for event in job.start(overwrite=overwrite, download=lambda done, total: tell((done, total))):
                tell(event)
        except Exception as error:  # whatever stops one run is told, and the next one is taken
            tell(Failed(portable(error)))
    os._exit(0)  # taking torch down in order takes seconds, for which others would wait


def _receive(connection: Connection, orders: SimpleQueue[bytes | None]) -> None:
    with suppress(EOFError, OSError):
        while True:
            orders.put(connection.recv_bytes())
    os.kill(os.getpid(), signal.SIGTERM)  # the end of an idle process; a run notes it, saves and stops
    orders.put(None)
    time.sleep(GRACE)
    os._exit(1)


def _claim_core() -> socket.socket | None:
    """Pin this process to a core that no other worker on the machine is pinned to, and return what holds the claim.

    The claim is a name among Linux's abstract sockets, which goes when the process does. Where no core is free, or
    the system cannot pin, the scheduler chooses.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    for core in sorted(os.sched_getaffinity(0), key=_rank):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0stn-core-{core}")
        except OSError:
            claim.close()
        else:
            os.sched_setaffinity(0, {core})
            return claim
    return None


def _rank(core: int) -> tuple[bool, int]:
    """Sort the second hardware threads of cores behind all the first ones: two on one core share its arithmetic."""
    listing = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    siblings = re.findall(r"\d+", listing.read_text()) if listing.is_file() else []
    return bool(siblings) and int(siblings[0]) != core, core


def portable(error: Exception) -> Exception:
    """Return the error, its traceback as a note, or its text where it cannot be sent to another process."""
    trace = "".join(traceback.format_exception(error))
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:  # an exception may hold and ask for anything
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(trace)
    return sent
