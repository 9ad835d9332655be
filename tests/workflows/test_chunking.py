"""Chunks that are worked on beside each other: in order, the first alone, and not too many."""

import threading
import time

import pytest

from jaxmdwarf.workflows.chunking import work_beside


def test_chunks_come_in_order_the_first_alone_and_two_at_once():
    lock, running, most = threading.Lock(), set(), {}

    def work(number):
        with lock:
            running.add(number)
            most[number] = len(running)
        time.sleep(0.05 if number % 2 else 0.01)
        with lock:
            beside = len(running)
            running.discard(number)
        most[number] = max(most[number], beside)
        return -number

    found = list(work_beside(work, range(7), 2))
    assert [(chunk, done.made) for chunk, done in found] == [(n, -n) for n in range(7)]
    assert most[0] == 1
    assert max(most.values()) == 2
    assert all(done.began < done.ended for _, done in found)


def test_no_more_chunks_are_taken_than_are_needed_next():
    taken = []

    def chunks():
        for number in range(9):
            taken.append(number)
            yield number

    for chunk, _ in work_beside(abs, chunks(), 2):
        assert len(taken) <= chunk + 4


@pytest.mark.parametrize("n_beside", [1, 2])
def test_a_failure_is_raised_in_its_turn(n_beside):
    found = work_beside(lambda number: 1 / (3 - number), range(6), n_beside)
    assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.parametrize("n_beside", [1, 2])
def test_what_came_before_a_failure_of_reading_is_finished_first(n_beside):
    def chunks():
        yield from range(4)
        raise OSError("gone")

    found = work_beside(lambda number: -number, chunks(), n_beside)
    assert [next(found)[1].made for _ in range(4)] == [0, -1, -2, -3]
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_the_next_chunk_is_read_while_one_is_worked_on():
    read = threading.Event()

    def chunks():
        yield from range(2)
        read.set()
        yield 2

    found = list(work_beside(lambda number: number == 0 or read.wait(10), chunks(), 1))
    assert [done.made for _, done in found] == [True, True, True]
