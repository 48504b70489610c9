"""Problems that can break a certificate: extreme radii and betas, ties, degenerate data."""

from __future__ import annotations

import numpy as np

from tradeoff.convex import LogLinear

FAMILIES = (
    "random",
    "separable",
    "contradictory",
    "duplicates",
    "collinear",
    "one response",
    "equal pairs",
    "clean",
)


def adversarial(seed: int) -> LogLinear:
    """Draw a problem: R from 1e-3 to 1e4, beta from 1e-3 to 50, label smoothing up to .49."""
    rng = np.random.default_rng([11, seed])
    family = FAMILIES[seed % len(FAMILIES)]
    d, prompts, n = (int(rng.integers(low, high)) for low, high in ((1, 6), (1, 5), (2, 5)))
    if family == "separable":
        d = max(d, 3)
    scale = 10.0 ** rng.uniform(-1, 1)
    phi = scale * rng.normal(size=(prompts, n, d))
    if family == "duplicates":
        phi[:, 1] = phi[:, 0]
    if family == "collinear":
        phi = phi[..., :1] * rng.normal(size=d) / np.sqrt(d)
    count = 1 if family == "one response" else int(rng.integers(1, 12))
    x = np.arange(prompts) if family == "separable" else rng.integers(prompts, size=count)
    y = np.zeros(len(x), int) if family == "separable" else rng.integers(n, size=len(x))
    J = int(rng.integers(1, 12))
    z, first = rng.integers(prompts, size=J), rng.integers(n, size=J)
    second = (first + rng.integers(1, n, size=J)) % n
    if family == "contradictory":
        z, first, second = np.tile(z, 2), np.append(first, second), np.append(second, first)
    if family == "equal pairs":
        phi[z, second] = phi[z, first]
    if family == "clean":
        judge = rng.normal(size=d)
        wrong = (phi[z, first] - phi[z, second]) @ judge < 0
        first, second = np.where(wrong, second, first), np.where(wrong, first, second)
    radius, beta = 10.0 ** rng.uniform(-3, 4), 10.0 ** rng.uniform(-3, np.log10(50))
    return LogLinear(
        features=phi.reshape(-1, d),
        offsets=np.arange(0, prompts * n + 1, n),
        demonstrations=x * n + y,
        chosen=z * n + first,
        rejected=z * n + second,
        radius=radius,
        beta=beta,
        label_smoothing=float(rng.choice([0.0, 0.0, 0.0, 0.01, 0.3, 0.49])),
        **_anchor(rng, d, len(z), radius),
        **_weights(rng, len(x), len(z)),
    )


def _anchor(rng: np.random.Generator, d: int, pairs: int, radius: float) -> dict[str, np.ndarray]:
    kind = rng.integers(4)
    if kind == 0:
        return {"reference": rng.normal(size=d) * min(radius, 5.0)}
    return {"reference_margins": 3 * rng.normal(size=pairs)} if kind == 1 else {}


def _weights(rng: np.random.Generator, shown: int, pairs: int) -> dict[str, np.ndarray]:
    if rng.random() < 0.7:
        return {}
    values = [10.0 ** rng.uniform(-4, 0, size=size) for size in (shown, pairs)]
    for value in values:
        value[1:][rng.random(len(value) - 1) < 0.2] = 0.0
    return dict(zip(("demonstration_weights", "pair_weights"), values, strict=True))
