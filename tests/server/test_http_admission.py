"""The queue's book-keeping, exactly, with a clock of its own."""

from __future__ import annotations

import pytest

from pellucid.server.admission import LONGEST_WAIT, Admission
from pellucid.server.errors import HttpError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_places_are_bounded_by_requests_and_by_tokens() -> None:
    admission = Admission(2, 100, clock=Clock())
    with admission.queue(60):
        with pytest.raises(HttpError, match="60 tokens"), admission.queue(41):
            pass
        with admission.queue(40):
            assert (admission.num_requests, admission.num_tokens) == (2, 100)
            with pytest.raises(HttpError, match="2 requests") as caught, admission.queue(0):
                pass
            assert caught.value.http_status == 429
        assert (admission.num_requests, admission.num_tokens) == (1, 60)
    assert (admission.num_requests, admission.num_tokens) == (0, 0)


def test_those_that_arrive_count_for_those_that_come_after_them() -> None:
    admission = Admission(2, 100)
    with admission.arriving():
        admission.refuse_when_full()
        with admission.arriving(), pytest.raises(HttpError):
            admission.refuse_when_full()
    with admission.queue(1), admission.arriving(), pytest.raises(HttpError):
        admission.refuse_when_full()
    with admission.queue(1), admission.queue(1):
        assert admission.num_arriving == 0


def test_an_empty_queue_takes_a_request_of_any_length() -> None:
    admission = Admission(2, 100, clock=Clock())
    with admission.queue(1000), pytest.raises(HttpError), admission.queue(1):
        pass


def test_a_started_request_leaves_its_place_once() -> None:
    admission = Admission(1, 100, clock=Clock())
    with admission.queue(10) as first:
        admission.started(first)
        admission.started(first)
        with admission.queue(20):
            assert (admission.num_requests, admission.num_tokens) == (1, 20)
        assert (admission.num_requests, admission.num_tokens) == (0, 0)
    with pytest.raises(ZeroDivisionError), admission.queue(10):
        _ = 1 / 0
    assert (admission.num_requests, admission.num_tokens) == (0, 0)


@pytest.mark.parametrize(("every", "waiting", "expected"), [(0.5, 40, 10.0), (0.1, 10, 1.0), (5, 1000, LONGEST_WAIT)])
def test_the_wait_follows_the_drain_rate(every: float, waiting: int, expected: float) -> None:
    clock = Clock()
    admission = Admission(10_000, 10**9, clock=clock)
    assert admission.wait() == LONGEST_WAIT / 4, "nothing is known yet"
    for _ in range(400):
        clock.now += every
        with admission.queue(1) as request:
            admission.started(request)
    admission.num_requests = waiting
    assert admission.wait() == pytest.approx(expected, rel=0.1)
    clock.now += 1000
    assert admission.wait() == LONGEST_WAIT / 4, "what was long ago says nothing"
