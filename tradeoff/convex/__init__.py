"""Convex problems with exact answers: policies, certified optima and fronts, fast simulation."""

from tradeoff.convex.certify import Minimum
from tradeoff.convex.front import Front, pareto_front
from tradeoff.convex.instances import binary_example, random_log_linear, random_quadratic
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.simulate import StepSize, Trajectories, simulate, trajectories
from tradeoff.convex.solve import minimise, minimise_max_gap

__all__ = [
    "Front",
    "LogLinear",
    "Minimum",
    "Quadratic",
    "StepSize",
    "Trajectories",
    "binary_example",
    "minimise",
    "minimise_max_gap",
    "pareto_front",
    "random_log_linear",
    "random_quadratic",
    "simulate",
    "trajectories",
]
