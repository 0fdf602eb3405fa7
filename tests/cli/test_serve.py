"""`stn visualize --serve` without a run: TensorBoard on all of them. What a browser shows is tested with one."""

from collections.abc import Callable
from typing import Any

Stn = Callable[..., Any]


def test_without_a_run_there_is_nothing_to_draw(stn: Stn):
    answer = stn("visualize")
    assert answer.code == 2
    assert answer.error == "there is no RUN to draw. Name one (see `stn list runs`), or add --serve to look at all."


def test_without_a_run_no_option_of_pictures_is_passed_over(stn: Stn):
    for option in (["--image", "a.png"], ["--pdf"], ["--distortion", "E"]):
        answer = stn("visualize", "--serve", "--runs-dir", "nowhere", *option)
        assert answer.code == 2
        assert answer.error == "--serve without a RUN draws nothing. Name a RUN, or leave the other options out."


def test_without_runs_there_is_nothing_to_serve(stn: Stn):
    answer = stn("visualize", "--serve", "--runs-dir", "nowhere")
    assert answer.code == 4
    assert answer.error == "there is no run in nowhere. Begin one with `stn train`, or give --runs-dir."
