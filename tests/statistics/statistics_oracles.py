"""Slow and obvious versions of the statistics, with loops and the textbook's words."""

import math

import numpy as np


def resampled_rows(num_rows, num_resamples, seed):
    return np.random.default_rng(seed).integers(num_rows, size=(num_resamples, num_rows))


def t_statistic(values, center):
    """Return (mean - center) / standard error; infinite with the sign of the error where all values are equal."""
    error = values.mean() - center
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return -math.inf if error < -1e-12 else math.inf
    return error / (values.std(ddof=1) / math.sqrt(values.size))


def order_statistic(values, confidence_level):
    rank = math.ceil(round(confidence_level * (len(values) + 1), 9))
    return math.inf if rank > len(values) else sorted(values)[rank - 1]


def bootstrap_t(column, confidence_level, rows):
    statistics = [abs(t_statistic(column[row], column.mean())) for row in rows]
    half = order_statistic(statistics, confidence_level) * column.std(ddof=1) / math.sqrt(column.size)
    return column.mean() - half, column.mean() + half


def band_critical_value(delta, confidence_level, rows):
    largest = [max(abs(t_statistic(column[row], column.mean())) for column in delta.T) for row in rows]
    return order_statistic(largest, confidence_level)


def pair_critical_value(delta, j, confidence_level, rows):
    """Return the critical value of the test of "j is the best", by the t statistics of every resampled pair."""
    differences = [delta[:, j] - delta[:, k] for k in range(delta.shape[1]) if k != j]
    largest = [max(t_statistic(d[row], d.mean()) for d in differences) for row in rows]
    return max(0.0, order_statistic(largest, confidence_level))


def best_set(delta, confidence_level, rows):
    num_columns = delta.shape[1]
    inside = []
    for j in range(num_columns):
        critical = pair_critical_value(delta, j, confidence_level, rows)
        inside.append(
            all(t_statistic(delta[:, j] - delta[:, k], 0.0) <= critical for k in range(num_columns) if k != j)
        )
    return np.array(inside)


def regret_bound(delta, pick, confidence_level, rows):
    bound = 0.0
    for i in np.flatnonzero(best_set(delta, confidence_level, rows)):
        if i != pick:
            difference = delta[:, pick] - delta[:, i]
            error = difference.std(ddof=1) / math.sqrt(len(difference))
            bound = max(bound, difference.mean() + pair_critical_value(delta, i, confidence_level, rows) * error)
    return bound


def median_interval(column, confidence_level):
    """Interpolated order statistics, with 1-based ranks and sums of binomial coefficients."""
    num = len(column)
    x = dict(enumerate(sorted(column), start=1))

    def coverage(d):
        return 1.0 - 2.0 * sum(math.comb(num, i) for i in range(d)) / 2.0**num

    d = max(d for d in range(1, num // 2 + 1) if coverage(d) >= confidence_level)
    share = (coverage(d) - confidence_level) / (coverage(d) - coverage(d + 1))
    weight = (num - d) * share / (d + (num - 2 * d) * share)
    return (1 - weight) * x[d] + weight * x[d + 1], (1 - weight) * x[num + 1 - d] + weight * x[num - d]
