"""Work ahead changes nothing but the time it takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from inpo.data.lookahead import in_order


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_order_and_no_more_wait_than_allowed(ahead: int) -> None:
    """The items are taken from their source no further ahead than `ahead`."""
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(4) as pool:
        for count, result in enumerate(in_order(lambda item: pool.submit(pow, item, 2), items(), ahead)):
            assert result == count**2
            assert len(taken) <= count + ahead
    assert len(taken) == 20


def test_an_error_is_raised_at_its_place_and_the_rest_is_cancelled() -> None:
    waiting: list[Future[float]] = []

    def submit(item: int) -> Future[float]:
        future: Future[float] = Future()
        if item == 1:
            future.set_exception(ZeroDivisionError())
        elif item == 0:
            future.set_result(0.0)
        waiting.append(future)
        return future

    results = in_order(submit, range(5), 3)
    assert next(results) == 0.0
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert [future.cancelled() for future in waiting] == [False, False, True, True]
