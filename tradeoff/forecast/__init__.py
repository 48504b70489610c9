"""Forecasts of a training before it runs: the front, what each order forgets, the best weight.

A forecast measures a model and its two data sets for less than a twentieth of a run's cost. Four
candidates predict from these measurements; a stored calibration weighs them and gives intervals.
"""

from tradeoff.forecast.calibration import Calibration, stored
from tradeoff.forecast.candidates import CANDIDATES, Candidate
from tradeoff.forecast.forecast import Forecast, forecast
from tradeoff.forecast.lab import Effort, Lab
from tradeoff.forecast.subject import Subject

__all__ = [
    "CANDIDATES",
    "Calibration",
    "Candidate",
    "Effort",
    "Forecast",
    "Lab",
    "Subject",
    "forecast",
    "stored",
]
