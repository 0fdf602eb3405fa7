"""TensorBoard's file of events: scalars, pictures, histograms, texts, the settings of a run; written as they come."""

# Protobuf makes its classes when it is imported:
# pyright: reportAttributeAccessIssue=false

import re
import socket
import time
from collections.abc import Mapping
from os import getpid
from pathlib import Path
from typing import Any

from jaxtyping import Float
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor

HISTOGRAM_BARS = 30

Setting = str | float | bool


class EventFile:
    """A new file of events in a folder. Nothing is buffered and no thread is started: a write that fails says so.

    TensorBoard reads the files of a folder in the order of their names, which hold the time: this one comes last,
    whatever the clock says. What is shown beside a curve, `about` it in Markdown, is written once for each tag.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None, suffix: str = "") -> None:
        """Open it; of what earlier files hold, let TensorBoard forget all from `purge_step` on.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{_next_second(folder):010d}.{socket.gethostname()}.{getpid()}.0{suffix}"
        self._file = RecordWriter((folder / name).open("xb", buffering=0))
        self._described: set[str] = set()
        try:
            self._write(Event(file_version="brain.Event:2"))
            if purge_step is not None:
                self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError:
            self.close()
            raise

    def scalar(self, tag: str, value: float, step: int, about: str = "") -> None:
        """Add a point to a curve."""
        self._add(Summary.Value(tag=tag, simple_value=value), step, "scalars", about)

    def picture(self, tag: str, png: bytes, size: tuple[int, int], step: int, about: str = "") -> None:
        """Add a picture of `size` (width, height)."""
        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        self._add(Summary.Value(tag=tag, image=image), step, "images", about)

    def histogram(self, tag: str, values: Float[Tensor, "n"], step: int, about: str = "") -> None:
        """Add how often values are what."""
        self._add_all(histogram_pb(tag, values.numpy(), buckets=HISTOGRAM_BARS, description=about), step)

    def text(self, tag: str, markdown: str) -> None:
        """Add a text."""
        self._add_all(text_pb(tag, markdown), 0)

    def begin(self, trial: str, settings: Mapping[str, Setting]) -> None:
        """Put the run with its settings into the table of HParams, in the run's own file.

        `add_hparams` of torch would make a run of its own below the run. It would also say which columns the table has:
        TensorBoard asks one run alone for that. Told by none, it looks at all of them, and what differs comes first.
        """
        self._add_all(hparams_pb(dict(settings), trial_id=trial), 0)

    def end(self) -> None:
        """Tell the table of HParams that the run is finished."""
        ended = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=ended))
        self._add(Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR), 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add_all(self, summary: Any, step: int) -> None:
        for value in summary.value:
            self._add(value, step)

    def _add(self, value: Any, step: int, plugin: str = "", about: str = "") -> None:
        if plugin and value.tag not in self._described:
            shown_by = SummaryMetadata.PluginData(plugin_name=plugin)
            value.metadata.CopyFrom(SummaryMetadata(plugin_data=shown_by, summary_description=about))
            self._described.add(value.tag)
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())


def _next_second(folder: Path) -> int:
    """Return the time in seconds, later than that of any file of events in a folder."""
    names = (re.match(r"events\.out\.tfevents\.(\d+)\.", file.name) for file in folder.iterdir())
    return max(int(time.time()), *(int(name[1]) + 1 for name in names if name), 0)
