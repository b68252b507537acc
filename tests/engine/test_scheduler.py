"""The scheduler with toy requests: the very plan, blocks and queues after each step."""

import pytest
from support.fake_model import VOCAB_SIZE

from pellucid.cache.manager import CacheManager
from pellucid.cache.prefix import BlockHashes
from pellucid.engine.answer import AnswerText
from pellucid.engine.plan import StepPlan
from pellucid.engine.request import Request
from pellucid.engine.sampler import RowSampler
from pellucid.engine.scheduler import Scheduler
from pellucid.engine.step import build_batch
from pellucid.executors.base import KVGroup
from pellucid.sampling import SamplingParams


def request(name: str, num_prompt_tokens: int, **params: int) -> Request:
    p = SamplingParams(**params)
    sampler = RowSampler(p, seed=0, index=0, end_token_ids=frozenset(), prompt_token_ids=[])
    text = AnswerText(decoder=None)  # type: ignore[arg-type]
    tokens = [ord(name) % VOCAB_SIZE] * num_prompt_tokens
    return Request(name, 0, tokens, num_prompt_tokens, p, 10**6, sampler, text, block_hashes=BlockHashes(block_size=4))


def scheduler(
    num_blocks: int = 100, block_size: int = 4, *, seqs: int = 10, tokens: int = 100, **limits: int
) -> Scheduler:
    cache = CacheManager([KVGroup(0, num_blocks)], block_size=block_size)
    return Scheduler(cache, max_num_seqs=seqs, max_num_batched_tokens=tokens, **limits)


def run(s: Scheduler) -> list[tuple[str, int, int]]:
    """Schedule a step and pretend to run it: whoever caught up gets a token. The plan as (name, start, count)."""
    plan = s.schedule()
    for entry in plan.scheduled:
        s.computed(entry.request, entry.start + entry.count)
        if entry.request.num_missing_tokens == 0:
            entry.request.token_ids.append(0)
    s.cache.check()
    return summary(plan)


def summary(plan: StepPlan) -> list[tuple[str, int, int]]:
    return [(e.request.id, e.start, e.count) for e in plan.scheduled]


def names(requests: object) -> str:
    return "".join(r.id for r in requests)  # type: ignore[attr-defined]


def test_a_prompt_then_one_token_a_step() -> None:
    s = scheduler()
    s.add(request("a", 5))
    assert run(s) == [("a", 0, 5)]
    assert run(s) == [("a", 5, 1)]
    assert run(s) == [("a", 6, 1)]
    assert s.cache.block_tables(("a", 0)) == [[0, 1]]


def test_prompts_share_the_budget_in_order_and_resume_where_they_stopped() -> None:
    s = scheduler(tokens=8)
    for name, length in [("a", 5), ("b", 6), ("c", 2)]:
        s.add(request(name, length))
    assert run(s) == [("a", 0, 5), ("b", 0, 3)]
    assert (names(s.running), names(s.queues.waiting)) == ("ab", "c")
    assert run(s) == [("a", 5, 1), ("b", 3, 3), ("c", 0, 2)]
    assert run(s) == [("a", 6, 1), ("b", 6, 1), ("c", 2, 1)]


def test_answers_in_progress_go_before_prompts() -> None:
    s = scheduler(tokens=4)
    s.add(request("a", 6))
    assert run(s) == [("a", 0, 4)]
    s.add(request("b", 1))
    assert run(s) == [("a", 4, 2), ("b", 0, 1)]
    s.add(request("c", 9))
    assert run(s) == [("a", 6, 1), ("b", 1, 1), ("c", 0, 2)]
    assert run(s) == [("a", 7, 1), ("b", 2, 1), ("c", 2, 2)]


def test_prefill_chunk_limits_each_request_and_not_the_step() -> None:
    s = scheduler(prefill_chunk=3)
    s.add(request("a", 7))
    s.add(request("b", 2))
    assert run(s) == [("a", 0, 3), ("b", 0, 2)]
    assert run(s) == [("b", 2, 1), ("a", 3, 3)]
    assert run(s) == [("a", 6, 1), ("b", 3, 1)]
    assert run(s) == [("a", 7, 1), ("b", 4, 1)]


def test_max_num_seqs() -> None:
    s = scheduler(seqs=2)
    for name in "abc":
        s.add(request(name, 2))
    assert run(s) == [("a", 0, 2), ("b", 0, 2)]
    assert run(s) == [("a", 2, 1), ("b", 2, 1)]
    s.remove(s.running[0])
    assert run(s) == [("b", 3, 1), ("c", 0, 2)]


def test_a_prompt_waits_until_all_of_it_has_blocks_and_smaller_ones_pass() -> None:
    s = scheduler(num_blocks=3)
    for name, length in [("a", 5), ("b", 5), ("c", 1)]:
        s.add(request(name, length))
    b = list(s.queues.waiting)[1]
    assert run(s) == [("a", 0, 5), ("c", 0, 1)]
    assert (names(s.running), names(s.queues.waiting), b.num_overtakings) == ("ac", "b", 1)
    s.remove(s.running[0])
    assert run(s) == [("c", 1, 1), ("b", 0, 5)]
    assert s.cache.block_tables(("b", 0)) == [[1, 0]]


def test_a_big_request_is_not_overtaken_for_ever() -> None:
    s = scheduler(num_blocks=4, seqs=2)
    s.add(request("a", 4))
    assert run(s) == [("a", 0, 4)]
    s.add(request("B", 15))
    for name in "cdef":
        s.add(request(name, 1))
    admitted = []
    for _ in range(6):
        admitted += [name for name, start, _ in run(s) if start == 0]
        for r in s.running[1:]:
            s.remove(r)
    assert "".join(admitted) == "cd", "two may pass, as many as run at once"
    s.remove(s.running[0])
    assert run(s) == [("B", 0, 15)]


def test_the_newest_gives_its_blocks_to_an_older_one() -> None:
    s = scheduler(num_blocks=3)
    a, b, c = (request(name, 4) for name in "abc")
    for r in (a, b, c):
        s.add(r)
    assert run(s) == [("a", 0, 4), ("b", 0, 4), ("c", 0, 4)]
    tokens = c.token_ids.copy()
    plan = s.schedule()  # a and b each need a second block: c goes, and b waits with what it has
    assert summary(plan) == [("a", 4, 1)]
    assert names(plan.preempted) == "c"
    assert (names(s.running), names(s.queues.waiting)) == ("ab", "c")
    assert s.cache.block_tables(("a", 0)) == [[0, 2]]
    assert (c.num_computed_tokens, c.num_preemptions, c.token_ids) == (0, 1, tokens)
    s.computed(a, 5)
    s.remove(a)
    assert run(s) == [("b", 4, 1)]  # c needs 2 blocks, and 1 is left
    s.remove(b)
    assert run(s) == [("c", 0, 5)]  # its own block was needed by a
    s.cache.check()


def test_preemption_takes_no_more_than_needed() -> None:
    s = scheduler(num_blocks=4)
    for name, length in [("a", 4), ("b", 1), ("c", 2), ("d", 3)]:
        s.add(request(name, length))
    run(s)
    plan = s.schedule()
    assert summary(plan) == [("a", 4, 1), ("b", 1, 1), ("c", 2, 1)]
    assert names(plan.preempted) == "d"


def test_remove_frees_blocks_wherever_the_request_is() -> None:
    s = scheduler(seqs=1)
    a, b = request("a", 4), request("b", 4)
    s.add(a)
    s.add(b)
    run(s)
    s.remove(b)
    s.remove(a)
    s.cache.check(idle=True)
    assert s.schedule() == StepPlan(())


def test_prompt_logits_are_rationed() -> None:
    s = scheduler(max_logit_rows=3)
    s.add(request("a", 5, prompt_logprobs=0))
    s.add(request("b", 9, prompt_logprobs=0))
    s.add(request("c", 6))
    a, b = list(s.queues.waiting)[:2]
    assert run(s) == [("a", 0, 3), ("c", 0, 6)]
    a.prompt_logprobs += [{}] * 3
    assert run(s) == [("c", 6, 1), ("a", 3, 2), ("b", 0, 1)]
    a.prompt_logprobs += [{}]
    b.prompt_logprobs += [{}]
    assert run(s) == [("a", 5, 1), ("c", 7, 1), ("b", 1, 3)]


def test_a_plan_becomes_arrays() -> None:
    s = scheduler(num_blocks=8, block_size=16, tokens=20)
    s.add(request("a", 17))
    s.add(request("b", 2))
    s.add(request("c", 30, prompt_logprobs=1))
    run(s)  # a 0:17, b 0:2, c 0:1
    s.running[2].prompt_logprobs += [{}]
    batch, rows = build_batch(s.schedule())  # a 17:18, b 2:3, c 1:19
    assert batch.token_ids.tolist() == [0, 0, *[ord("c")] * 18]
    assert batch.positions.tolist() == [17, 2, *range(1, 19)]
    assert batch.block_tables.tolist() == [[[0, 1], [2, -1], [3, 4]]]
    assert batch.slot_mapping.tolist() == [[17, 34, *range(49, 67)]]
    assert batch.query_start.tolist() == [0, 1, 2, 20]
    assert batch.seq_lens.tolist() == [18, 3, 19]
    assert batch.logit_rows.tolist() == [0, 1, *range(2, 20)]
    assert rows == [range(1), range(1, 2), range(2, 20)]
    dtypes = {name: str(value.dtype) for name, value in vars(batch).items()}
    assert dtypes == dict.fromkeys(dtypes, "int32") | {"slot_mapping": "int64"}


def test_an_unfinished_prompt_has_no_logits() -> None:
    s = scheduler(block_size=16, prefill_chunk=4)
    s.add(request("a", 6))
    batch, rows = build_batch(s.schedule())
    assert len(batch.logit_rows) == 0
    assert rows == [range(0)]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_recomputation_needs_only_the_last_row(chunk: int) -> None:
    s = scheduler(block_size=16, prefill_chunk=chunk)
    a = request("a", 6, prompt_logprobs=0)
    a.prompt_logprobs += [{}] * 5
    a.token_ids += [1, 2]
    s.add(a)
    found = []
    while a.num_missing_tokens:
        plan = s.schedule()
        batch, _ = build_batch(plan)
        found += batch.positions[batch.logit_rows].tolist()
        a.num_computed_tokens += plan.num_tokens
    assert found == [7]


def urgent(name: str, num_prompt_tokens: int) -> Request:
    r = request(name, num_prompt_tokens)
    r.priority = -1
    return r


def test_a_higher_priority_takes_the_seat_of_the_newest_lower_one() -> None:
    s = scheduler(seqs=2)
    for name in "ab":
        s.add(request(name, 2))
    run(s)
    s.add(request("c", 2))
    assert run(s) == [("a", 2, 1), ("b", 2, 1)], "the same priority waits"
    s.add(urgent("U", 2))
    assert run(s) == [("a", 3, 1), ("U", 0, 2)]
    assert (names(s.running), names(s.queues.waiting)) == ("Ua", "bc")


def test_a_higher_priority_takes_as_many_blocks_as_it_needs() -> None:
    s = scheduler(num_blocks=6)
    for name in "abc":
        s.add(request(name, 6))
    run(s)
    s.add(urgent("U", 7))
    plan = s.schedule()
    assert summary(plan) == [("a", 6, 1), ("b", 6, 1), ("U", 0, 7)]
    assert names(plan.preempted) == "c"


def test_nobody_is_preempted_for_a_request_that_would_not_fit_all_the_same() -> None:
    s = scheduler(num_blocks=6)
    s.add(urgent("U", 9))
    s.add(request("a", 6))
    run(s)
    s.add(urgent("V", 13))  # U has 3 of the 6 blocks, and 4 are needed
    assert run(s) == [("U", 9, 1), ("a", 6, 1)]
    assert (names(s.running), names(s.queues.waiting)) == ("Ua", "V")
