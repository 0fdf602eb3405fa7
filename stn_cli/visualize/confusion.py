"""The confusion matrix of a run as a table, or its commonest mistakes where there are too many classes for one."""

from collections.abc import Sequence

from stn_cli.training.evaluation import Evaluation
from stn_cli.visualize.markup import Markup, joined
from stn_cli.visualize.page import Cell, table

MOST_CLASSES = 64  # of a matrix that can still be read
MOST_MISTAKES = 40
SHADES = (0.0, 1.0, 2.0, 5.0, 10.0)  # percent of a class, from where on a mistake has the next shade


def confusion(evaluation: Evaluation, classes: Sequence[str]) -> Markup:
    """Return which classes are taken for which, and the error of every class."""
    counts = evaluation.confusion.tolist()
    if len(classes) <= MOST_CLASSES:
        return _matrix(counts, evaluation.class_errors_percent, classes)
    return joined([_mistakes(counts, classes), _by_class(counts, evaluation.class_errors_percent, classes)])


def _matrix(counts: list[list[int]], errors: list[float | None], classes: Sequence[str]) -> Markup:
    rows = (
        (name, [*(_counted(i, j, row) for j in range(len(row))), str(sum(row)), _percent(errors[i])])
        for i, (name, row) in enumerate(zip(classes, counts, strict=True))
    )
    caption = "Test images by true class (row) and predicted class (column); mistakes are shaded by their share"
    return table(caption, ["true", *classes, "images", "error %"], rows)


def _counted(true: int, predicted: int, row: list[int]) -> Cell:
    count = row[predicted]
    if true == predicted:
        return Cell(str(count), "right")
    percent = 100 * count / max(1, sum(row))
    return Cell(str(count), f"shade-{sum(percent >= shade for shade in SHADES)}" if count else "nothing")


def _mistakes(counts: list[list[int]], classes: Sequence[str]) -> Markup:
    found = [
        (count, true, predicted)
        for true, row in enumerate(counts)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    common = sorted(found, key=lambda mistake: -mistake[0])[:MOST_MISTAKES]
    rows = ((classes[true], [Cell(classes[predicted], "words"), str(count)]) for count, true, predicted in common)
    kinds = f"the {len(common)} commonest of {len(found):,} kinds"
    caption = f"A matrix of {len(classes):,} classes cannot be read; these are its mistakes, {kinds}"
    return table(caption, ["true class", Cell("predicted class", "words"), "images"], rows)


def _by_class(counts: list[list[int]], errors: list[float | None], classes: Sequence[str]) -> Markup:
    rows = ((name, [str(sum(counts[i])), _percent(errors[i])]) for i, name in enumerate(classes))
    return table("Error by class", ["class", "images", "error %"], rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
