"""The confusion matrix on a page: every number where it belongs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stn_cli.training.evaluation import Evaluation
from stn_cli.visualize.confusion import MOST_CLASSES, MOST_MISTAKES, confusion
from stn_cli.visualize.page import page

Read = Callable[[str], Any]


def counted(classes: int) -> tuple[Evaluation, list[str]]:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 20, (classes, classes), generator=generator) + 100 * torch.eye(classes).long()
    counts[1] = 0  # a class without images
    return Evaluation(counts, 1.0), [f'<b>{i}&"' for i in range(classes)]


def shade(cell: Any) -> str:
    return cell.attributes.get("class", "")


def test_rows_are_true_classes_and_columns_predicted_ones(read_page: Read):
    evaluation, names = counted(5)
    (table,) = read_page(page("a", confusion(evaluation, names))).all("table")
    assert [th.text for th in table.all("th", scope="col")] == ["true", *names, "images", "error %"]
    assert [th.text for th in table.all("th", scope="row")] == names
    rows = [[td.text for td in tr.all("td")] for tr in table.all("tr")[1:]]
    assert [[int(text) for text in row[:-2]] for row in rows] == evaluation.confusion.tolist()
    assert [int(row[-2]) for row in rows] == evaluation.confusion.sum(dim=1).tolist()
    shown = [None if row[-1] == "–" else float(row[-1]) for row in rows]
    assert shown[1] is None
    expected = [error for error in evaluation.class_errors_percent if error is not None]
    assert [error for error in shown if error is not None] == pytest.approx(expected, abs=0.005)


def test_mistakes_are_shaded_by_their_share_of_the_class(read_page: Read):
    counts = torch.tensor([[1000, 1, 15, 30], [0, 60, 0, 40], [1, 0, 13, 1], [0, 0, 0, 0]])
    (table,) = read_page(page("a", confusion(Evaluation(counts, 1.0), list("abcd")))).all("table")
    shades = [[shade(td) for td in tr.all("td")[:-2]] for tr in table.all("tr")[1:]]
    assert shades == [
        ["right", "shade-1", "shade-2", "shade-3"],
        ["nothing", "right", "nothing", "shade-5"],
        ["shade-4", "nothing", "right", "shade-4"],
        ["nothing", "nothing", "nothing", "right"],
    ]


def test_a_matrix_too_large_to_be_read_becomes_its_commonest_mistakes(read_page: Read):
    evaluation, names = counted(MOST_CLASSES)
    assert len(read_page(page("a", confusion(evaluation, names))).all("table")) == 1
    evaluation, names = counted(MOST_CLASSES + 1)
    mistakes, by_class = read_page(page("a", confusion(evaluation, names))).all("table")
    rows = [(tr.all("th")[0].text, *(td.text for td in tr.all("td"))) for tr in mistakes.all("tr")[1:]]
    assert len(rows) == MOST_MISTAKES
    counts = evaluation.confusion
    wrong = counts - counts.diag().diag()
    assert [int(row[2]) for row in rows] == wrong.flatten().sort(descending=True).values[:MOST_MISTAKES].tolist()
    assert all(int(counts[names.index(true), names.index(taken)]) == int(n) for true, taken, n in rows)
    assert len(by_class.all("tr")) == 1 + len(names)
