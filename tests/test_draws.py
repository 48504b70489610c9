"""Draws are uniform, independent, and a pure function of their position."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tradeoff import draws

STREAMS = range(11)


def test_mix_is_the_published_finaliser() -> None:
    # First outputs of SplitMix64 (Vigna's splitmix64.c) for the seed 1234567: the state moves by
    # GOLDEN, then the finaliser is applied.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * draws.GOLDEN
        assert draws.mix(states).tolist() == expected


def test_unit_interval_excludes_one() -> None:
    assert draws.to_unit(np.uint64(0)) == 0.0
    assert draws.to_unit(np.uint64(2**64 - 1)) == 1 - 2.0**-53


@pytest.mark.parametrize("stream", STREAMS)
def test_uniform_along_counters(stream: int) -> None:
    u = draws.uniform(draws.keys(3, 5, stream), np.arange(20_000))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    cells = np.bincount((u * 64).astype(int), minlength=64)
    assert stats.chisquare(cells).pvalue > 1e-3


def test_uniform_along_replicas_and_seeds() -> None:
    across_replicas = draws.uniform(draws.keys(0, np.arange(20_000), draws.OBJECTIVE), 0)
    across_seeds = [float(draws.uniform(draws.keys(s, 0, draws.OBJECTIVE), 0)) for s in range(5000)]
    assert stats.kstest(across_replicas, "uniform").pvalue > 1e-3
    assert stats.kstest(across_seeds, "uniform").pvalue > 1e-3


def neighbours() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Pairs of sequences that a careless key would make equal."""
    counters = np.arange(20_000)
    base = draws.uniform(draws.keys(7, 0, 0), counters)
    others = {f"stream {s}": draws.uniform(draws.keys(7, 0, s), counters) for s in STREAMS if s}
    others["next replica"] = draws.uniform(draws.keys(7, 1, 0), counters)
    others["next seed"] = draws.uniform(draws.keys(8, 0, 0), counters)
    others["next counter"] = draws.uniform(draws.keys(7, 0, 0), counters + 1)
    return [(name, base, other) for name, other in others.items()]


@pytest.mark.parametrize(("u", "v"), [pytest.param(u, v, id=name) for name, u, v in neighbours()])
def test_neighbouring_sequences_are_independent(u: np.ndarray, v: np.ndarray) -> None:
    table = np.zeros((16, 16))
    np.add.at(table, ((u * 16).astype(int), (v * 16).astype(int)), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert abs(np.corrcoef(u, v)[0, 1]) < 4 / np.sqrt(len(u))


def test_normal_moments() -> None:
    x = draws.normal(draws.keys(1, 0, draws.SFT_NOISE), np.arange(50_000))
    assert stats.kstest(x, "norm").pvalue > 1e-3
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(np.mean(x**power) - moment) < 4 * np.sqrt(variance / len(x))


def test_draws_do_not_depend_on_their_company() -> None:
    keys = draws.keys(2, np.arange(64), draws.PREFERENCE_SAMPLE)
    together = draws.uniform(keys[:, None], np.arange(10))
    alone = draws.uniform(draws.keys(2, 9, draws.PREFERENCE_SAMPLE), 4)
    assert together[9, 4] == alone


def test_negative_and_huge_seeds_are_seeds_too() -> None:
    assert draws.keys(-1, 0, 0) == draws.keys(2**64 - 1, 0, 0)
    assert draws.keys(-1, 0, 0) != draws.keys(1, 0, 0)
