"""The log of a run: metrics.jsonl, and the same as TensorBoard events."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stn_cli.drawing.png import small_png
from stn_cli.errors import CheckpointError, ResourceError
from stn_cli.storage import write_bytes
from stn_cli.training.background import Background
from stn_cli.training.event_file import EventFile, Setting
from stn_cli.training.run_folder import RunFolder
from stn_cli.training.tags import ABOUT_PICTURES, ABOUT_THETA, GUIDE, scalar_tag


class RunLogger:
    """Writes numbers to metrics.jsonl and TensorBoard; pictures, histograms and texts to TensorBoard.

    metrics.jsonl is part of the result: failing to write it stops the run. TensorBoard is a view, made in a thread of
    its own beside the training: whatever fails there is reported once and training goes on without it.
    """

    def __init__(self, run: RunFolder, *, resume_step: int = 0) -> None:
        """Open the log; what an earlier process logged after `resume_step` is dropped, since it will come again."""
        _drop_after(run.metrics, resume_step)
        self._path = run.metrics
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._background = Background(self._without_board)
        self._board: EventFile | None = None
        try:
            self._board = EventFile(run.tensorboard, purge_step=resume_step + 1)
        except OSError as error:
            self._without_board(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Wait until all is written."""
        with suppress(OSError):  # every record was flushed; what is left is one that `scalars` has reported
            self._metrics.close()
        self._on_board(lambda board: board.close())
        self._background.close()

    def begin(self, run: RunFolder, settings: Mapping[str, Setting]) -> None:
        """Put the run into TensorBoard's table of runs; show its configuration and environment, and a guide."""
        self._on_board(lambda board: board.begin(run.path.name, settings))
        self._on_board(lambda board: board.text("about this board", GUIDE))
        self.text("config", run.config.read_text(encoding="utf-8"))
        self.text("environment", run.environment.read_text(encoding="utf-8"))

    def end(self, summary: Mapping[str, Any]) -> None:
        """Put the result on the test set, as the summary has it, into TensorBoard and its table of runs."""
        result = {"error_percent": summary["test_error_percent"], "loss": summary["test_loss"]}
        self.view("test", summary["steps"], result)
        self._on_board(lambda board: board.end())

    def scalars(self, split: str, step: int, values: dict[str, float], *, shown: bool = True) -> None:
        """Log named numbers of a split ("train", "validation") after `step` steps, on TensorBoard only if `shown`.

        Raises:
            ResourceError: metrics.jsonl cannot be written.
        """
        record: dict[str, Any] = {"step": step, "split": split, **values}
        try:
            self._metrics.write(json.dumps(record, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise ResourceError(
                f"cannot write {self._path}: {error.strerror}", "Free some space, then resume."
            ) from error
        if shown:
            self.view(split, step, values)

    def view(self, split: str, step: int, values: dict[str, float]) -> None:
        """Log numbers to TensorBoard alone: timings, which are no part of the result and differ every time."""

        def write(board: EventFile) -> None:
            for name, value in values.items():
                if (found := scalar_tag(split, name)) is not None:
                    board.scalar(found[0], value, step, found[1])

        self._on_board(write)

    def picture(self, tag: str, draw: Callable[[], Image.Image], step: int, most: int) -> None:
        """Log a picture of at most `most` bytes. `draw`: makes it, in the thread; what it holds lies on the CPU."""
        self._on_board(lambda b: b.picture(tag, *small_png(draw(), most), step, ABOUT_PICTURES.get(tag, "")))

    def histograms(self, values: Mapping[str, Float[Tensor, "n"]], step: int) -> None:
        """Log how components of θ are spread, by their tags; they lie on the CPU."""

        def write(board: EventFile) -> None:
            for tag, numbers in values.items():
                board.histogram(tag, numbers, step, ABOUT_THETA)

        self._on_board(write)

    def text(self, tag: str, text: str) -> None:
        """Log a text, shown in a fixed-width font."""
        self._on_board(lambda board: board.text(tag, f"```\n{text}\n```"))

    def settle(self) -> None:
        """Wait for what TensorBoard was given before the last call of this.

        The pictures of an evaluation are drawn while training goes on: a process that is killed meanwhile loses them,
        and no number.
        """
        self._background.settle()

    def _on_board(self, write: Callable[[EventFile], None]) -> None:
        board = self._board
        if board is not None:
            self._background.do(lambda: write(board))

    def _without_board(self, error: Exception) -> None:
        if self._board is not None:
            with suppress(OSError):  # it is given up, for the reason that is told here
                self._board.close()
        what = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        logging.getLogger("stn").warning("TensorBoard events cannot be written (%s); training goes on", what)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file; a half-written last line, of a killed process, is left out.

    Raises:
        CheckpointError: another line is damaged.
    """
    if not path.is_file():
        return []
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise CheckpointError(f"{path}:{number} is no JSON", "Remove that line.") from error
    return records


def _drop_after(path: Path, step: int) -> None:
    if path.is_file():
        kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
        write_bytes(path, "".join(kept).encode())
