import signal
import threading

import pytest

from stn_cli.errors import LostRankError
from stn_cli.training.interruption import Interruption

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture
def _own_handlers():
    """As a program has them that does something of its own at a signal."""

    def act(number: int, _: object) -> None:
        raise InterruptedError(number)

    before = {number: signal.signal(number, act) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_handlers")
@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_acts(first: int, second: int) -> None:
    before = handlers()
    with Interruption() as interruption:
        assert interruption.signal is None
        signal.raise_signal(first)
        assert interruption.signal == first
        with pytest.raises(InterruptedError, match=str(int(second))):
            signal.raise_signal(second)
        assert interruption.signal == first
    assert handlers() == before


@pytest.mark.usefixtures("_own_handlers")
def test_handlers_come_back_whether_it_ends_well_or_not() -> None:
    before = handlers()
    with Interruption():
        assert not any(now is then for now, then in zip(handlers(), before, strict=True))
    assert handlers() == before
    with pytest.raises(ZeroDivisionError), Interruption():
        _ = 1 / 0
    assert handlers() == before


@pytest.mark.usefixtures("_own_handlers")
def test_a_process_that_ends_for_the_loss_of_another_is_not_cut_off() -> None:
    """torchrun sends SIGTERM to those that are left."""
    before = handlers()
    with pytest.raises(LostRankError), Interruption():
        raise LostRankError("another has ended", rank=0)
    assert handlers() == [before[0], signal.SIG_IGN]
    signal.raise_signal(signal.SIGTERM)


def test_a_handler_that_python_does_not_know_becomes_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that embeds Python may have set its own, for which `signal.signal` returns None."""
    before, set_to = handlers(), []
    with Interruption() as interruption:
        interruption._previous = dict.fromkeys(SIGNALS)
        monkeypatch.setattr(signal, "signal", lambda number, handler: set_to.append((number, handler)))
    assert set_to == [(number, signal.SIG_DFL) for number in SIGNALS]
    monkeypatch.undo()
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_in_another_thread_nothing_is_touched() -> None:
    before, found = handlers(), []

    def work() -> None:
        with Interruption() as interruption:
            found.append((interruption.signal, handlers() == before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, True)]
