"""Shares of tenants: who goes first, and that everybody does in the end."""

from pellucid.engine.waiting import TenantShares


def first(shares: TenantShares, tenants: list[str]) -> str:
    return min(tenants, key=lambda tenant: shares[tenant])


def test_who_had_least_goes_first_and_having_been_away_earns_nothing() -> None:
    shares = TenantShares()
    for tenant in ("a", "b"):
        shares.arrive(tenant)
    shares.charge("a", 10)
    assert first(shares, ["a", "b"]) == "b"
    shares.leave("b")
    shares.charge("a", 90)
    shares.arrive("b")
    assert (shares["a"], shares["b"]) == (100, 95)  # 10 tokens for two tenants, then 90 for one


def test_a_row_of_newcomers_does_not_go_before_one_who_had_a_little() -> None:
    """Each newcomer has one request; some are always waiting. `old` had 30 tokens before it was preempted, say."""
    shares = TenantShares()
    waiting = ["old", "new 0", "new 1", "new 2"]
    for tenant in waiting:
        shares.arrive(tenant)
    shares.charge("old", 30)
    for i in range(3, 100):
        tenant = first(shares, waiting)
        if tenant == "old":
            break
        shares.charge(tenant, 10)
        shares.leave(tenant)
        waiting.remove(tenant)
        waiting.append(f"new {i}")
        shares.arrive(waiting[-1])
    assert i < 20


def test_tenants_that_are_gone_are_forgotten() -> None:
    shares = TenantShares()
    shares.arrive("stays")
    for i in range(1_000):
        shares.arrive(f"t{i}")
        shares.charge(f"t{i}", 50)
        shares.charge("stays", 50)
        shares.leave(f"t{i}")
    assert len(shares._num_tokens) < 10
