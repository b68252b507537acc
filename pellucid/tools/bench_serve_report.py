"""The result of `pellucid bench serve` as rows of a table."""

from __future__ import annotations

from typing import Any


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """(what, p50, p90, p99), or (what, one value)."""
    options = result["options"]
    found: list[tuple[str, ...]] = [
        ("requests answered", f"{result['answered']:,} of {options['num_requests']:,}"),
        *((f"  error: {error}", f"{count:,}") for error, count in result["errors"].items()),
        ("new tokens a second, all clients", f"{result['new_tokens_per_second']:,.1f}"),
        ("requests a second", f"{result['requests_per_second']:.2f}"),
        (f"  good ones ({options['slo_ttft']:g} s, {options['slo_itl']:g} s)", f"{result['goodput']:.2f}"),
    ]
    times = {
        "first_token": "time to the first token",
        "between_tokens": "between tokens",
        "whole": "whole answer",
        "refusal": "refused after",
    }
    return found + [
        (text, *(_time(seconds) for seconds in result[key].values())) for key, text in times.items() if result[key]
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{seconds * 1e3:,.1f} ms"
