"""Adaptive tuning: the race of the rates, with real probes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from autolr._typing import EngineName, FloatArray, IntArray
from autolr.probing.rows import ProbedRows
from autolr.statistics.race import Look, race

# from rates, rows, the engine and the number of rows to probe whatever the time
ProbeRows = Callable[[FloatArray, range, EngineName, int], ProbedRows]


def probe_adaptively(
    probe: ProbeRows,
    learning_rates: FloatArray,
    num_subsamples: int,
    *,
    num_horizons: int,
    engine: EngineName,
    confidence_level: float,
    regret_tolerance: float,
) -> tuple[ProbedRows, dict[str, Any]]:
    """Probe in looks (:func:`autolr.statistics.race.race`): rates that are out are not probed any further.

    Args:
        probe: What probes rows at some rates.
        learning_rates: All rates, shape ``(K,)``.
        num_subsamples: The most rows.
        num_horizons: The number of losses of a probe H; the last one decides.
        engine: The engine asked for; once "auto" has stepped aside for the reference engine, it stays there.
        confidence_level: The level of the decision.
        regret_tolerance: The share of the pick's gain that its regret may have.

    Returns:
        The losses, NaN where a rate was not probed; and the settings that say how the race went: ``num_looks``
        planned, ``looks`` made, ``stop``, ``num_probes`` and ``num_probes_fixed``, those of a tuning without looks.
    """
    parts: list[ProbedRows] = []
    loss_pre = np.empty(0)
    loss_post = np.empty((0, learning_rates.size, num_horizons))

    def differentials(rows: range, columns: IntArray) -> FloatArray:
        nonlocal loss_pre, loss_post
        settled = parts and parts[-1].engine == "step"
        part = probe(learning_rates[columns], rows, "step" if settled else engine, 0 if parts else 2)
        parts.append(part)
        end = rows.start + len(part.loss_pre)
        if end > len(loss_pre):
            new = np.full((end - len(loss_pre), learning_rates.size, num_horizons), np.nan)
            loss_pre = np.concatenate([loss_pre, part.loss_pre[len(loss_pre) - rows.start :]])
            loss_post = np.concatenate([loss_post, new])
        own = part.loss_post.reshape(len(part.loss_pre), columns.size, num_horizons)
        loss_post[rows.start : end, columns] = own
        with np.errstate(over="ignore"):
            return np.asarray(own[:, :, -1] - part.loss_pre[:, np.newaxis])

    run = race(
        differentials,
        num_subsamples,
        learning_rates.size,
        confidence_level=confidence_level,
        regret_tolerance=regret_tolerance,
    )
    return _joined(parts, loss_pre, loss_post), {
        "num_looks": run.num_looks,
        "looks": [_as_settings(look) for look in run.looks],
        "stop": run.stop,
        "num_probes": int((~np.isnan(loss_post[:, :, -1])).sum()),
        "num_probes_fixed": num_subsamples * learning_rates.size,
    }


def _joined(parts: list[ProbedRows], loss_pre: FloatArray, loss_post: FloatArray) -> ProbedRows:
    """Return all losses, and what is to be said of the parts; one without rows says only that time was over."""
    filled = [part for part in parts if len(part.loss_pre)] or parts[:1]
    reasons = dict.fromkeys(part.engine_reason for part in filled if part.engine_reason != "asked for")
    return ProbedRows(
        loss_pre,
        loss_post,
        ", then ".join(dict.fromkeys(part.engine for part in filled)),
        ", then ".join(reasons) or "asked for",
        any(part.out_of_time for part in parts),
        all(part.repeatable for part in parts),
    )


def _as_settings(look: Look) -> dict[str, Any]:
    return {
        "num_subsamples": look.num_subsamples,
        "confidence_level": look.confidence_level,
        "num_rates": int(look.columns.size),
        "num_best": int(look.inside.size),
        "gain": look.gain,
        "regret_bound": look.regret_bound if np.isfinite(look.regret_bound) else None,
    }
