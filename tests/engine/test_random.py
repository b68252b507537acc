"""The counter-based generator against its authors' vectors, and as a source of uniform numbers."""

import numpy as np
import pytest

from pellucid.engine.random import derive_seed, fresh_seed, philox4x32, uniform

ALL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123's kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ALL,) * 4, (ALL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    assert philox4x32(counter, key) == words  # type: ignore[arg-type]


def test_uniform_numbers_are_uniform_and_every_argument_matters() -> None:
    numbers = np.array([uniform(1, 0, p) for p in range(20_000)])
    assert 0 <= numbers.min() < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-squared, 19 degrees of freedom: 1 in 10,000
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03
    assert len({uniform(s, i, p) for s in (0, 1, 2**63) for i in (0, 1) for p in (0, 1, 2**33)}) == 18
    assert uniform(5, 2, 9) == uniform(5, 2, 9)


def test_seeds() -> None:
    assert 0 <= fresh_seed() < 2**64
    assert fresh_seed() != fresh_seed()
    assert derive_seed(7, 1) == derive_seed(7, 1)
    assert len({derive_seed(s, n) for s in (0, 7) for n in range(100)}) == 200
