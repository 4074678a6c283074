"""Write the flights of four drones: drone-0.csv to drone-3.csv beside this file.

    python examples/uav_regression/make_data.py

Every drone logs where it is (position block) and what it feels (sensor block), and the load on
its motors, which depends on both linearly. Each flies one corridor, so that one of its features
never varies and its own flight cannot tell what that feature does.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

NAMES = ("position.x", "position.y", "position.z", "sensor.wind", "sensor.payload")
TRUTH = np.array([0.5, -1.0, 2.0, 1.5, -0.7])
BIAS = 0.3
# What each drone never sees vary, and the value at which it is stuck.
CORRIDORS = ((0, 1.0), (1, -0.5), (3, 0.8), (4, 0.4))
SAMPLES = 60


def flight(rng: np.random.Generator, stuck: int, value: float) -> np.ndarray:
    """Return one drone's samples, shape (60, 6): the features, then the load with its noise."""
    features = rng.standard_normal((SAMPLES, len(NAMES)))
    features[:, stuck] = value
    load = features @ TRUTH + BIAS + 0.05 * rng.standard_normal(SAMPLES)
    return np.column_stack([features, load])


def main() -> None:
    """Write the four files; the same ones each time."""
    rng = np.random.default_rng(7)
    for number, (stuck, value) in enumerate(CORRIDORS):
        path = Path(__file__).with_name(f"drone-{number}.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*NAMES, "load"])
            writer.writerows([f"{cell:.4f}" for cell in row] for row in flight(rng, stuck, value))


if __name__ == "__main__":
    main()
