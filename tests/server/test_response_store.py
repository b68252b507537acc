"""ResponseStore: its limits hold, and one owner does not push out another."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from pellucid.server.errors import HttpError
from pellucid.server.response_store import ResponseStore, StoredResponse


def response(nbytes: int) -> StoredResponse:
    return StoredResponse(b"x" * (nbytes // 2), b"y" * (nbytes - nbytes // 2), b"")


def has(store: ResponseStore, owner: str, id: str) -> bool:
    try:
        store.get(owner, id)
    except HttpError:
        return False
    return True


def test_the_least_recently_used_makes_room() -> None:
    store = ResponseStore(max_responses=3)
    for id in "abc":
        store.add("", id, response(10))
    store.get("", "a")
    store.add("", "d", response(10))
    assert [id for id in "abcd" if has(store, "", id)] == ["a", "c", "d"]
    store.delete("", "c")
    with pytest.raises(HttpError, match="no response 'c'"):
        store.delete("", "c")


@pytest.mark.parametrize("limits", [{"max_responses": 4}, {"max_nbytes": 400}])
def test_who_stores_much_loses_only_their_own(limits: dict[str, int]) -> None:
    store = ResponseStore(**limits)
    store.add("alice", "a", response(100))
    for i in range(50):
        store.add("bob", f"b{i}", response(100))
    assert has(store, "alice", "a")
    assert not has(store, "bob", "a")
    assert [i for i in range(50) if has(store, "bob", f"b{i}")] == [47, 48, 49]


def test_one_that_is_larger_than_the_store_is_not_kept() -> None:
    store = ResponseStore(max_nbytes=100)
    store.add("alice", "a", response(40))
    store.add("bob", "b", response(101))
    assert has(store, "alice", "a")
    assert not has(store, "bob", "b")


def test_for_one_owner_it_is_an_lru_in_count_and_bytes() -> None:
    rng = random.Random(5)
    store, model = ResponseStore(max_responses=5, max_nbytes=300), OrderedDict[str, int]()
    for i in range(2000):
        id = str(rng.randrange(max(1, i)))
        if rng.random() < 0.5:
            size = rng.randrange(2, 150)
            store.add("o", str(i), response(size))
            model[str(i)] = size
            while len(model) > 5 or sum(model.values()) > 300:
                model.popitem(last=False)
        elif rng.random() < 0.5 and id in model:
            store.delete("o", id)
            del model[id]
        else:
            recent = rng.choice([*model, id])
            assert has(store, "o", recent) == (recent in model)
            if recent in model:
                model.move_to_end(recent)
