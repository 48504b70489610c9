"""Counter-based random draws: a pure function of (seed, replica, stream, counter).

No generator has a state. So a draw does not depend on the number of threads, on the order of
replicas, or on where a run was interrupted. Two schedules with the same seed get the same draws
(common random numbers). The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood,
OOPSLA 2014). The same Python source runs on numpy arrays here and is compiled by numba in
`tradeoff.convex._kernels`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_REPLICA = np.uint64(0xD1B54A32D192ED03)
_STREAM = np.uint64(0x8CB92BA72F3D8DD7)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)

# Streams, one for each purpose of a draw. They are independent of each other.
OBJECTIVE, SFT_SAMPLE, PREFERENCE_SAMPLE = 0, 1, 2
SFT_ESTIMATE, PREFERENCE_ESTIMATE = 3, 4
SFT_NOISE, PREFERENCE_NOISE = 5, 6
COORDINATES = 7
JOIN = 8
VIEW = 9
TOKENS = 10


def mix(z):  # type: ignore[no-untyped-def]
    """SplitMix64 finaliser on uint64 scalars or arrays (also compiled by numba)."""
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


def to_unit(z):  # type: ignore[no-untyped-def]
    """Map 64 random bits to a float in [0, 1) with 53 bits (also compiled by numba)."""
    return (z >> _S11) * 1.1102230246251565e-16


def keys(seed: int, replicas: ArrayLike | int, stream: int) -> NDArray[np.uint64]:
    """Key of each replica's stream, of the shape of ``replicas``."""
    with np.errstate(over="ignore"):
        root = mix(np.uint64(seed % 2**64) + GOLDEN)
        replica = mix(root + np.asarray(replicas, dtype=np.uint64) * _REPLICA)
        return np.asarray(mix(replica + np.uint64(stream) * _STREAM))


def uniform(key: NDArray[np.uint64], counter: ArrayLike | int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1); ``key`` and ``counter`` broadcast."""
    with np.errstate(over="ignore"):
        return np.asarray(to_unit(mix(key + np.asarray(counter, dtype=np.uint64) * GOLDEN)))


def normal(key: NDArray[np.uint64], counter: ArrayLike | int) -> NDArray[np.float64]:
    """Standard normal draws by the Box-Muller transform of two uniforms."""
    counter = np.asarray(counter, dtype=np.uint64)
    u = uniform(key, 2 * counter)
    v = uniform(key, 2 * counter + np.uint64(1))
    return np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v)
