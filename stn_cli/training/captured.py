"""Training steps recorded once and replayed: on a GPU as CUDA graphs, one launch in place of hundreds per step."""

from collections.abc import Callable, Sequence
from threading import Lock

import torch

from stn_cli.datasets.loader import TrainingStream
from stn_cli.errors import ResourceError
from stn_cli.training.step import TrainStep

AT_ONCE = 10  # steps in one launch

Work = Callable[[], None]
Recorder = Callable[[Sequence[Work], torch.Generator], Sequence[Work]]

# PyTorch records one graph at a time in a process, and some of its versions replay none in the meantime.
_ONE_AT_A_TIME = Lock()


def record_graphs(works: Sequence[Work], generator: torch.Generator) -> list[Work]:
    """Return what does again, each in one launch, all that these do on the current CUDA device.

    `generator`: the one that they draw from; a replay draws from where it stands, and moves it as the work does.
    They share their memory, so replays must follow one another in one stream. Each work is done once before it is
    recorded: what is made at first use, handles and workspaces and constants on the device, outlives it, and could not
    lie in a graph's memory.

    Raises:
        ResourceError: the work cannot be recorded.
    """
    # A stream for each recording: libraries have a workspace per stream, and replays side by side must not share it.
    current, default = torch.cuda.current_stream(), torch.cuda.default_stream()
    stream = torch.cuda.Stream() if current == default else current  # the default one cannot be recorded
    pool, graphs = torch.cuda.graph_pool_handle(), list[torch.cuda.CUDAGraph]()
    with _ONE_AT_A_TIME:
        for work in works:
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                work()
            current.wait_stream(stream)
            graphs.append(torch.cuda.CUDAGraph())
            graphs[-1].register_generator_state(generator)
            try:
                # Other threads may train meanwhile: what they allocate is no concern of this graph.
                with torch.cuda.graph(graphs[-1], pool, stream, "thread_local"):
                    work()
            except RuntimeError as error:  # of CUDA, whose kinds differ between releases of PyTorch
                cause = error.__context__ or error  # a recording that broke off cannot be ended either
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from error
                raise ResourceError(
                    f"the training steps cannot be recorded as a CUDA graph ({str(cause).partition(chr(10))[0]})",
                    "Set runtime.steps=eager.",
                ) from error
    return [_replaying(graph) for graph in graphs]


def _replaying(graph: torch.cuda.CUDAGraph) -> Work:
    def replay() -> None:
        with _ONE_AT_A_TIME:
            graph.replay()

    return replay


class CapturedSteps:
    """Steps that were recorded once and are replayed, `at_once` together where nothing has to be looked at between.

    They are the steps of `EagerSteps`, draw for draw. What differs from one to the next, which images and which
    learning rates, lies in buffers that are filled before each replay; where the draws begin, the generator is told.
    Recording changes nothing of the run.
    """

    def __init__(
        self, step: TrainStep, stream: TrainingStream, record: Recorder = record_graphs, at_once: int = AT_ONCE
    ) -> None:
        self._step = step
        self._stream = stream
        self._indices = stream.indices(0, at_once)
        self._rates = step.rates(0, at_once)
        counts = sorted({at_once, 1}, reverse=True)
        with step.undone():
            replays = record([lambda count=count: self._do(count) for count in counts], stream.generator)
        self._replays = dict(zip(counts, replays, strict=True))

    def advance(self, done: int, most: int) -> int:
        """Do up to `most` steps after `done` ones and return how many."""
        count = next(count for count in self._replays if count <= most)
        self._indices[:count].copy_(self._stream.indices(done, count))
        self._rates[:count].copy_(self._step.rates(done, count))
        self._stream.seek(done)
        self._replays[count]()
        return count

    def _do(self, count: int) -> None:
        for i in range(count):
            self._step.update(self._stream.make(self._indices[i]), self._rates[i])
