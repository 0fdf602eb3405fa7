"""The report: the run as it is, and what is missing said."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stn_cli.errors import UsageError
from stn_cli.training.evaluation import evaluate
from stn_cli.training.logger import read_metrics
from stn_cli.training.restore import open_trained
from stn_cli.training.run_folder import RunFolder
from stn_cli.visualize.report import RunReport, look_at
from stn_cli.visualize.report_page import report_page

Read = Callable[[str], Any]
Run = Callable[[str], RunFolder]


@pytest.fixture
def copied(small_run: Run, tmp_path: Path) -> RunFolder:
    """A run to be damaged."""
    shutil.copytree(small_run("st-cnn").path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def report(small_run: Run) -> RunReport:
    return look_at(small_run("st-cnn"), [])


def facts(page: Any) -> dict[str, str]:
    names, values = ([node.text for node in page.all(name)] for name in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def notices(page: Any) -> list[str]:
    return [node.text for node in page.all("p", class_="notice")]


def test_a_report_has_the_numbers_of_the_run(report: RunReport, read_page: Read):
    summary = report.run.read_summary()
    assert summary is not None
    assert (report.error_percent, list(report.interval_percent or ())) == (
        summary["test_error_percent"],
        summary["test_interval_percent"],
    )
    trained = open_trained(report.run, "last", [])
    found = evaluate(trained.network, trained.test, 10, trained.runtime)
    assert report.tested is not None
    assert report.tested.evaluation.confusion.equal(found.confusion)
    assert (report.tested.evaluation.loss, report.missing) == (found.loss, ())

    page = read_page(report_page([report]))
    known = facts(page)
    assert known["test error"] == f"{summary['test_error_percent']:.2f} %"
    assert known["95 % interval, %"] == "{:.2f} to {:.2f}".format(*summary["test_interval_percent"])
    assert known["learnable parameters"] == f"{summary['parameters']:,}"
    assert known["samples outside, input"] == f"{found.outside_percent:.1f} %"
    assert notices(page) == []
    (written,) = page.all("pre")
    assert written.text == report.run.config.read_text()
    environment = json.loads(report.run.environment.read_text())
    shown = page.text
    assert all(name in shown and str(value or "none") in shown for name, value in environment.items())
    assert [heading.text for heading in page.all("h3")] == [
        *("Learning curves", "What the network does", "What is taken for what", "Settings and machine")
    ]
    assert len(page.all("img")) == 20
    drawings = [drawing.attributes["aria-label"].partition(" over ")[0] for drawing in page.all("svg")]
    assert drawings[:2] == ["error", "loss"]
    assert {"gradient norm", "learning rate", "outside"} <= set(drawings)


def test_the_mistakes_shown_are_those_the_network_is_surest_of(report: RunReport, read_page: Read):
    alts = [image.attributes["alt"] for image in read_page(report_page([report])).all("img")][10:]
    assert not any("rightly" in alt for alt in alts)
    sure = [float(alt.partition(", ")[2].partition(" %")[0]) for alt in alts]
    assert sure == sorted(sure, reverse=True)


def test_the_same_runs_give_the_same_page(small_run: Run):
    run = small_run("st-cnn")
    assert report_page([look_at(run, [])]) == report_page([look_at(run, [])])


def test_the_numbers_behind_the_curves_are_the_records(report: RunReport, read_page: Read):
    table = next(t for t in read_page(report_page([report])).all("table") if "by step" in t.all("caption")[0].text)
    names = [th.text for th in table.all("th", scope="col")][1:]
    rows = {
        tr.all("th")[0].text: dict(zip(names, [td.text for td in tr.all("td")], strict=True))
        for tr in table.all("tr")[1:]
    }
    for record in read_metrics(report.run.metrics):
        for name, value in record.items():
            if name not in ("step", "split"):
                split = {"train": "training"}.get(record["split"], record["split"])
                column = f"{split} {name}".replace("_percent", " %").replace("_", " ")
                assert rows[str(record["step"])][column] == f"{value:.4g}"
    assert set(rows) == {str(record["step"]) for record in report.records}


def test_several_runs_are_compared(report: RunReport, small_run: Run, read_page: Read):
    reports = [report, look_at(small_run("cnn"), []), look_at(small_run("parallel"), [])]
    page = read_page(report_page(reports))
    first, differing = page.all("table")[:2]
    assert [th.text for th in first.all("th", scope="row")] == ["st-cnn", "cnn", "parallel"]
    assert [tr.all("td")[0].text for tr in first.all("tr")[1:]] == [f"{one.error_percent:.2f}" for one in reports]
    assert [a.attributes["href"] for a in first.all("a")] == ["#run-0", "#run-1", "#run-2"]
    settings = [th.text for th in differing.all("th", scope="row")]
    assert settings == ["model.name", "model.transform", "model.transformers"]
    side_by_side = differing.all("tr")[-1].all("td")[2].text
    assert side_by_side == "[[{at: input, transform: affine}, {at: input, transform: affine}]]"
    together = page.all("svg")[0].attributes["aria-label"]
    assert all(f"{one.name}, validation" in together for one in reports)
    assert "this network has no transformer" in page.text
    assert len(report_page(reports).encode()) < 5_000_000


def test_the_same_run_twice_has_no_settings_that_differ(report: RunReport, read_page: Read):
    assert "All have the same settings." in read_page(report_page([report, report])).text


def test_many_runs_share_the_bytes_of_a_page(report: RunReport, small_run: Run):
    alone, among = report, look_at(small_run("st-cnn"), [], among=40)
    assert among.tested is not None
    sizes = [sum(len(part) for part in one.tested.samples) for one in (alone, among) if one.tested]
    assert sizes[1] < sizes[0]
    assert len(report_page([among] * 40).encode()) < 5_000_000


def test_an_unfinished_run_says_so_and_is_looked_at_with_its_newest_weights(copied: RunFolder, read_page: Read):
    copied.summary.unlink()
    report = look_at(copied, [])
    assert (report.summary, report.step) == (None, 4)
    page = read_page(report_page([report]))
    assert notices(page) == ["This run is not finished. Its newest weights are of step 4 of 4."]
    assert facts(page)["test error"] == f"{report.error_percent:.2f} %"
    assert "run *" in read_page(report_page([report, report])).text


def test_what_is_missing_is_said(copied: RunFolder, read_page: Read):
    shutil.rmtree(copied.checkpoints)
    copied.environment.unlink()
    copied.metrics.unlink()
    report = look_at(copied, [])
    page = read_page(report_page([report]))
    (why,) = notices(page)
    assert why == f"Not shown: {report.missing[0]}"
    assert "no sound checkpoint" in why
    assert "There are no records" in page.text
    assert "The environment was not recorded" in page.text
    assert not page.all("img") + page.all("svg")

    copied.summary.unlink()
    (unfinished, _) = notices(page := read_page(report_page([look_at(copied, [])])))
    assert unfinished == "This run is not finished. It has no weights to look at."
    assert facts(page)["test error"] == "not known"


def test_damaged_files_are_said(copied: RunFolder, read_page: Read):
    copied.summary.write_text("{")
    copied.metrics.write_text("{\n")
    copied.environment.write_text("[]")
    page = read_page(report_page([look_at(copied, [])]))
    assert [line for line in notices(page) if "summary.json is damaged" in line]
    assert [line for line in notices(page) if "metrics.jsonl:1 is no JSON" in line]
    assert "is damaged" in page.text


def test_without_the_data_the_rest_is_shown(small_run: Run, read_page: Read, tmp_path: Path):
    overrides = ["data.dataset=mnist", f"data.data_dir={tmp_path}", "data.offline=true"]
    report = look_at(small_run("cnn"), overrides)
    assert (report.tested, len(report.missing)) == (None, 1)
    page = read_page(report_page([report]))
    assert len(notices(page)) == 1
    assert facts(page)["test error"] == f"{report.error_percent:.2f} %"
    assert page.all("svg")


def test_a_result_that_cannot_be_found_again_is_said(report: RunReport, read_page: Read):
    other = replace(report, summary=(report.summary or {}) | {"test_error_percent": 1.25})
    page = read_page(report_page([other]))
    assert facts(page)["test error"] == "1.25 %"
    assert notices(page)[0].startswith("Counted anew, with the weights of step 4: ")


def test_names_of_classes_runs_and_settings_are_text(report: RunReport, read_page: Read):
    name = '<b>&"'
    assert report.tested is not None
    tested = replace(report.tested, classes=(name, *report.tested.classes[1:]))
    data = report.config.data.model_copy(update={"dataset": name})
    config = report.config.model_copy(update={"data": data})
    other = replace(report, run=RunFolder(report.run.path.parent / name), tested=tested, config=config)
    other.run.path.mkdir(exist_ok=True)
    other.run.config.write_text(f"# {name}\n")
    page = read_page(report_page([other, report]))
    assert not page.all("b")
    assert name in [th.text for th in page.all("th")]
    assert facts(page)["data"].startswith(name) or page.text.count(f"{name} under R") == 1
    shutil.rmtree(other.run.path)


def test_a_configuration_that_is_none_is_refused(copied: RunFolder):
    copied.config.write_text("nothing: 1\n")
    with pytest.raises(UsageError):
        look_at(copied, [])
