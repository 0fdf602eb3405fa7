import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_cli.training.event_file import EventFile


def test_scalars_and_histograms_come_back(tmp_path: Path) -> None:
    values = torch.linspace(-1, 1, 301)
    with closing(EventFile(tmp_path / "tb")) as events:
        events.scalar("a/b", 0.25, 3, "about **b**")
        events.scalar("a/b", 0.5, 4, "about **b**")
        events.histogram("c", values, 4)
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("a/b")] == [(3, 0.25), (4, 0.5)]
    assert found.SummaryMetadata("a/b").summary_description == "about **b**"
    (event,) = found.Tensors("c")
    bars = torch.tensor(
        event.tensor_proto.double_val or memoryview(event.tensor_proto.tensor_content).cast("d").tolist()
    )
    assert bars.view(-1, 3)[:, 2].sum() == len(values)


def test_a_later_file_is_read_last_whatever_the_clock_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier file holds from the purged step on is forgotten only if it is read before."""
    for now, value in ((2e9, 1.0), (1e9, 2.0), (1e9, 3.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        with closing(EventFile(tmp_path, purge_step=2)) as events:
            events.scalar("a", value, 2)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    assert [event.value for event in EventAccumulator(str(tmp_path)).Reload().Scalars("a")] == [3.0]


def test_a_file_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "tb").write_text("in the way")
    with pytest.raises(OSError, match="tb"):
        EventFile(tmp_path / "tb")
