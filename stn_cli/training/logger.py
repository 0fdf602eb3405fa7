"""The log of a run: metrics.jsonl, and the same as TensorBoard events."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from stn_cli.drawing.pixels import to_tensor
from stn_cli.errors import CheckpointError, ResourceError
from stn_cli.storage import write_bytes
from stn_cli.training.run_folder import RunFolder


class RunLogger:
    """Writes scalars to metrics.jsonl and TensorBoard, and pictures to TensorBoard.

    metrics.jsonl is part of the result: failing to write it stops the run. TensorBoard is a view: a failure there is
    reported once and training goes on without it.
    """

    def __init__(self, run: RunFolder, *, resume_step: int = 0) -> None:
        """Open the log; what an earlier process logged after `resume_step` is dropped, since it will come again."""
        _drop_after(run.metrics, resume_step)
        self._path = run.metrics
        self._metrics = run.metrics.open("a", encoding="utf-8")
        self._writer: SummaryWriter | None = None
        try:
            self._writer = SummaryWriter(str(run.tensorboard), purge_step=resume_step + 1)
        except OSError as error:
            self._without_tensorboard(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(OSError):  # every record was flushed; what is left is one that `scalars` has reported
            self._metrics.close()
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._without_tensorboard(error)

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Log named numbers of a split ("train", "validation") after `step` steps.

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
        self.view(split, step, values)

    def view(self, split: str, step: int, values: dict[str, float]) -> None:
        """Log numbers to TensorBoard alone: timings, which are no part of the result and differ every time."""
        for name, value in values.items():
            self._tensorboard(lambda w, name=name, value=value: w.add_scalar(f"{split}/{name}", value, step))

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """Log a picture."""
        self._tensorboard(lambda w: w.add_image(tag, to_tensor(picture), step))

    def text(self, tag: str, text: str) -> None:
        """Log a text, shown in a fixed-width font."""
        self._tensorboard(lambda w: w.add_text(tag, f"```\n{text}\n```", 0))

    def flush(self) -> None:
        """Bring everything to disk."""
        self._tensorboard(lambda w: w.flush())

    def _tensorboard(self, write: Any) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:
            self._without_tensorboard(error)

    def _without_tensorboard(self, error: OSError) -> None:
        logging.getLogger("stn").warning("TensorBoard events cannot be written (%s); training goes on", error.strerror)
        self._writer = None


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
