"""Problems that several tests of theorems share."""

from tradeoff.convex import LogLinear, random_log_linear


def contested(seed: int = 0, radius: float = 2.0) -> LogLinear:
    """Strong conflict, few parameters. Bounds of 16,384 updates lie below every wrong policy."""
    return random_log_linear(
        seed,
        prompts=3,
        responses=3,
        dimension=2,
        demonstrations=12,
        pairs=12,
        conflict=0.9,
        sharpness=3.0,
        radius=radius,
    )
