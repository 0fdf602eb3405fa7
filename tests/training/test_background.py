import threading

from stn_cli.training import background
from stn_cli.training.background import Background


def refuse(error: Exception) -> None:
    raise AssertionError(error)


def test_work_is_done_in_order_in_one_other_thread_and_all_of_it_before_the_end() -> None:
    done: list[tuple[int, int]] = []
    worker = Background(refuse)
    for number in range(1000):
        worker.do(lambda number=number: done.append((number, threading.get_ident())))
    worker.close()
    assert [number for number, _ in done] == list(range(1000))
    assert len({thread for _, thread in done} | {threading.get_ident()}) == 2


def test_settling_waits_for_what_came_before_the_last_time_and_for_no_more() -> None:
    worker, free, done = Background(refuse), threading.Event(), list[str]()
    worker.do(lambda: done.append("first"))
    worker.settle()
    worker.do(lambda: (free.wait(10), done.append("second")))
    worker.settle()  # returns, though the second is held up
    assert done == ["first"]
    free.set()
    worker.settle()
    assert done == ["first", "second"]
    worker.close()


def test_no_more_waits_than_has_room(monkeypatch) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 3)
    worker, free, given = Background(refuse), threading.Event(), list[int]()

    def give() -> None:
        for number in range(10):
            worker.do(lambda: free.wait(10))
            given.append(number)

    giver = threading.Thread(target=give)
    giver.start()
    giver.join(0.2)
    assert len(given) <= 4  # one in work, three waiting
    free.set()
    giver.join()
    worker.close()
    assert len(given) == 10


def test_after_the_first_fault_nothing_is_done_and_nobody_waits() -> None:
    faults: list[Exception] = []
    worker, done = Background(faults.append), list[int]()
    worker.do(lambda: done.append(1))
    worker.do(lambda: done.append(1 // 0))
    worker.do(lambda: done.append(2 // 0))
    worker.do(lambda: done.append(3))
    worker.settle()
    worker.settle()
    worker.close()
    assert done == [1]
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
