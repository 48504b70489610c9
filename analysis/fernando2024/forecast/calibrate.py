"""Write the package's calibration of `tradeoff forecast` from the stored full run.

python -m analysis.fernando2024.forecast.calibrate
"""

from __future__ import annotations

from analysis.fernando2024.stored import shown
from tradeoff.forecast import calibration


def stored_run() -> calibration.Calibration:
    """The calibration of the stored full run of `forecast_accuracy`."""
    return calibration.from_record(shown("forecast_accuracy")["calibration"])


if __name__ == "__main__":
    calibration.store(stored_run())
