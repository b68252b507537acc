from __future__ import annotations

import threading

import pytest

from pellucid.thread_pool import started_pool


def names() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("pooled"))


def test_all_threads_are_there_from_the_start_and_no_more_come() -> None:
    with started_pool(3, "pooled") as pool:
        assert names() == ["pooled_0", "pooled_1", "pooled_2"]
        assert [f.result(10) for f in [pool.submit(pow, n, 2) for n in range(20)]] == [n * n for n in range(20)]
        assert names() == ["pooled_0", "pooled_1", "pooled_2"]
    assert names() == []


def test_where_no_more_threads_start_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(names()) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start"):
        started_pool(3, "pooled")
    assert names() == []
