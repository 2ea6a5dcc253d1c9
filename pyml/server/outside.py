"""Readings that lie outside what was forecast of them."""

from typing import Any

import numpy as np

from pyml.detectors import sentences
from pyml.detectors.base import SEVERITIES, Reason
from pyml.server import backend, fields
from pyml.server.rarity import Rarity
from pyml.telemetry.history import Floats

# A value further from the forecast than this many half widths is critical.
CRITICAL = 2.0
# Half widths counted at most: an interval may have no width on one side of a bound.
FARTHEST = 1000.0


class Outside(Reason):
    """Why a reading is an anomaly where it lies outside what was forecast."""

    predicted: float


Judged = tuple[Outside, int]
"""Why, and by which model."""


def judge(
    points: Any,
    name: str,
    times: Floats,
    values: Floats,
    interval: float,
    judged: dict[float, list[Judged]],
) -> None:
    """Add the readings outside the interval forecast for the point nearest to them."""
    forecast_at, unit = np.array([point["t"] for point in points]), None
    known = np.isfinite(values)
    known &= (times >= forecast_at[0] - interval) & (times <= forecast_at[-1] + interval)
    for moment, value in zip(times[known].tolist(), values[known].tolist(), strict=True):
        right = min(int(np.searchsorted(forecast_at, moment)), len(forecast_at) - 1)
        left = max(right - 1, 0)
        nearest = min(left, right, key=lambda i: abs(forecast_at[i] - moment))
        point = points[nearest]
        if abs(point["t"] - moment) > interval / 2 or point["lower"] <= value <= point["upper"]:
            continue
        side = point["upper"] if value > point["upper"] else point["lower"]
        half = abs(side - point["predicted"])
        distance = abs(value - point["predicted"]) / half if half > 0 else FARTHEST
        unit = fields.unit_of(name) if unit is None else unit
        interval_ = (point["lower"], point["upper"])
        why: Outside = {
            "metric": name,
            "kind": "forecast",
            "sentence": sentences.forecast(name, unit or "", value, point["predicted"], interval_),
            "value": backend.shown(value),
            "usual_low": backend.shown(point["lower"]),
            "usual_high": backend.shown(point["upper"]),
            "predicted": backend.shown(point["predicted"]),
            "contribution": round(min(distance, FARTHEST), 3),
        }
        judged.setdefault(moment, []).append((why, point["model_id"]))


def entries(kind: str, judged: dict[float, list[Judged]], among: int) -> list[tuple[Any, ...]]:
    """The readings outside a forecast as they are logged: one for all fields of one time.

    The rarest of them tells how seldom the like comes of any of the device's `among` fields.
    """
    made: list[tuple[Any, ...]] = []
    models = {model for found in judged.values() for _, model in found}
    rarity = {model: Rarity.of(kind, model) for model in models}
    for moment, found in sorted(judged.items()):
        found.sort(key=lambda one: -one[0]["contribution"])
        reasons = [reason for reason, _ in found]
        worst = reasons[0]["contribution"]
        hours = [
            rarity[model].hours(np.array([-reason["contribution"]]), among)[0]
            for reason, model in found
        ]
        made.append(
            (
                moment,
                -worst,
                SEVERITIES[1 + (worst >= CRITICAL)],
                {reason["metric"]: reason["value"] for reason in reasons},
                reasons,
                found[0][1],
                max((one for one in hours if one is not None), default=None),
            )
        )
    return made
