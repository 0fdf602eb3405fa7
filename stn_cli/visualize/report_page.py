"""A report as a page: several runs compared, then each by itself."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from stn_cli.training.restore import flat_settings
from stn_cli.visualize.confusion import confusion
from stn_cli.visualize.curves import error_curves, learning_curves
from stn_cli.visualize.markup import Markup, element
from stn_cli.visualize.page import Cell, duration, facts, figures, folded, notice, page, table
from stn_cli.visualize.report import RunReport
from stn_cli.visualize.run_parts import curves_figure, environment, metrics_table, settings

NAMED = ("name", "runs_dir")  # settings that say where a run lies, and differ always
COLUMNS = (
    *("run", "test error %", "95 % interval", "parameters", "seconds", "steps"),
    *(Cell("distortion", "words"), Cell("model", "words"), "seed"),
)


def report_page(reports: Sequence[RunReport]) -> str:
    """Return the report as an HTML document."""
    if len(reports) == 1:
        return page(f"Report on {reports[0].name}", _section(reports[0], "Result", "run-0"))
    sections = [_section(report, report.name, f"run-{i}") for i, report in enumerate(reports)]
    return page(f"Report on {len(reports)} runs", *_comparison(reports), *sections)


def _comparison(reports: Sequence[RunReport]) -> Iterator[Markup]:
    yield element("h2", "Comparison")
    results = [(_link(report, i), _compared(report)) for i, report in enumerate(reports)]
    yield table("Results of the runs", COLUMNS, results)
    if any(report.summary is None for report in reports):
        yield element("p", "* This run is not finished; its error is that of its newest weights.")
    yield curves_figure(error_curves([(report.name, report.records) for report in reports]), "error_percent")
    flat = [flat_settings(report.config.model_dump(mode="json")) for report in reports]
    keys = dict.fromkeys(key for one in flat for key in one if not key.startswith(NAMED))
    differing = [key for key in keys if len({str(one.get(key)) for one in flat}) > 1]
    rows = [(key, [Cell(_setting(one.get(key)), "words") for one in flat]) for key in differing]
    if rows:
        yield table("Settings that differ", ["setting", *(Cell(report.name, "words") for report in reports)], rows)
    else:
        yield element("p", "All have the same settings.")


def _link(report: RunReport, number: int) -> Markup:
    return element("a", report.name if report.summary else f"{report.name} *", href=f"#run-{number}")


def _compared(report: RunReport) -> list[str | Cell]:
    return [
        "–" if report.error_percent is None else f"{report.error_percent:.2f}",
        _interval(report),
        _count(report.parameters),
        "–" if report.summary is None else f"{report.summary['train_seconds']:,.0f}",
        _count(report.step),
        Cell(report.config.distortion.kind, "words"),
        Cell(report.config.model.label, "words"),
        str(report.config.seed),
    ]


def _section(report: RunReport, heading: str, identity: str) -> Markup:
    return element("section", element("h2", heading), *_result(report), *_curves(report), *_tests(report), id=identity)


def _result(report: RunReport) -> Iterator[Markup]:
    if report.summary is None:
        total = f" of {report.config.train.iterations:,}" if report.config.train.iterations else ""
        newest = f"Its newest weights are of step {_count(report.step)}{total}."
        state = newest if report.step is not None else "It has no weights to look at."
        yield notice("This run is not finished. ", state)
    for line in report.missing:
        yield notice("Not shown: ", line)
    config, summary, tested = report.config, report.summary or {}, report.tested
    known = {
        "test error": "not known" if report.error_percent is None else f"{report.error_percent:.2f} %",
        "95 % interval, %": _interval(report),
        "data": f"{config.data.dataset} under {config.distortion.kind}",
        "model": config.model.label,
        "learnable parameters": _count(report.parameters),
        "recipe": config.train.recipe,
        "steps": _count(report.step),
        "seed": str(config.seed),
    }
    if summary:
        known["training"] = f"{duration(summary['train_seconds'])}, {summary['images_per_second']:,.0f} images/s"
        known["computed on"] = f"{summary['device']}, {summary['precision']}"
    if tested is not None:
        outside = tested.evaluation.outside_percents
        known |= {f"samples outside, {name}": f"{percent:.1f} %" for name, percent in outside.items()}
    yield facts(known | {"folder": str(report.run.path)})


def _curves(report: RunReport) -> Iterator[Markup]:
    yield element("h3", "Learning curves")
    if not report.records:
        yield element("p", f"There are no records in {report.run.metrics}.")
        return
    first = ["error_percent", "loss"]
    names = dict.fromkeys(name for record in report.records for name in record if name not in ("step", "split", *first))
    drawn = [curves_figure(learning_curves(report.records, name), name) for name in (*first, *names)]
    yield figures(*drawn[:2])
    if names:
        yield folded("More curves", figures(*drawn[2:]))
    yield folded("The numbers", metrics_table(report.records))


def _tests(report: RunReport) -> Iterator[Markup]:
    tested, summary = report.tested, report.summary
    if tested is not None:
        yield element("h3", "What the network does")
        yield from tested.samples
        yield element("h3", "What is taken for what")
        now = tested.evaluation
        found = None if summary is None else (summary["steps"], summary["test_error_percent"])
        if found not in (None, (tested.step, now.error_percent)):
            yield notice(
                f"Counted anew, with the weights of step {tested.step:,}: {now.wrong:,} of {now.n:,} images are wrong, "
                f"{now.error_percent:.2f} %. The result above was found when training ended."
            )
        yield confusion(now, tested.classes)
    yield element("h3", "Settings and machine")
    yield settings(report.run)
    yield environment(report.run)


def _interval(report: RunReport) -> str:
    return "–" if report.interval_percent is None else "{:.2f} to {:.2f}".format(*report.interval_percent)


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _setting(value: object) -> str:
    if isinstance(value, list):
        return yaml.safe_dump(
            _said(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
        ).strip()
    return "–" if value is None else str(value)


def _said(value: Any) -> Any:
    """Return a setting without what it leaves to others: a transformer has a dozen, of which one or two are said."""
    if isinstance(value, list):
        return [_said(item) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {key: _said(part) for key, part in value.items()}
    return {key: part for key, part in parts.items() if part is not None and part is not False and part != {}}
