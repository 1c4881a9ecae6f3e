"""Slow and obvious versions of the statistics, with loops and the textbook's words."""

import math

import numpy as np
from scipy import stats
from scipy.interpolate import CubicSpline


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


def quantile(values, share):
    """Return the linear interpolation between the order statistics around ``share`` of the way from first to last."""
    ordered, position = sorted(values), share * (len(values) - 1)
    below = math.floor(position)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def percentile(column, confidence_level, rows):
    means = [column[row].mean() for row in rows]
    return quantile(means, (1 - confidence_level) / 2), quantile(means, (1 + confidence_level) / 2)


def bca(column, confidence_level, rows):
    """Efron's interval, the acceleration by leaving out one value after the other."""
    means, mean = [column[row].mean() for row in rows], column.mean()
    slack = 1e-13 * np.abs(column - mean).max()  # a resample that holds each value once has the same mean
    share = sum(int(m < mean - slack) + int(m <= mean + slack) for m in means) / (2 * len(means))
    bias = stats.norm.ppf(share)
    left_out = [np.delete(column, i).mean() for i in range(len(column))]
    influence = [np.mean(left_out) - m for m in left_out]
    acceleration = sum(x**3 for x in influence) / (6 * sum(x**2 for x in influence) ** 1.5)

    def end(nominal):
        z = bias + stats.norm.ppf(nominal)
        return quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))

    return end((1 - confidence_level) / 2), end((1 + confidence_level) / 2)


def band(delta, confidence_level, rows):
    critical = band_critical_value(delta, confidence_level, rows)
    half = [critical * column.std(ddof=1) / math.sqrt(column.size) for column in delta.T]
    return delta.mean(axis=0) - half, delta.mean(axis=0) + half


def stability(delta, rows):
    wins = np.zeros(delta.shape[1])
    for row in rows:
        wins[delta[row].mean(axis=0).argmin()] += 1
    return wins / len(rows)


def mvt_draws(num_rows, num_resamples, seed):
    """Return normal weights of the rows for each draw, and the chi that divides them."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((num_resamples, num_rows))
    return list(zip(normal, np.sqrt(rng.chisquare(num_rows - 1, size=num_resamples) / (num_rows - 1)), strict=True))


def mvt_critical_value(delta, j, confidence_level, draws):
    """Return the critical value of the test of "j is the best": normal errors with the covariance of the data."""
    num_rows, num_columns = delta.shape
    largest = []
    for normal, chi in draws:
        statistics = []
        for k in range(num_columns):
            if k != j:
                d = delta[:, j] - delta[:, k]
                error = sum(z * (x - d.mean()) for z, x in zip(normal, d, strict=True)) / math.sqrt(num_rows - 1)
                statistics.append(error / d.std(ddof=1) / chi)
        largest.append(max(statistics))
    return max(0.0, order_statistic(largest, confidence_level))


def mvt_best_set(delta, confidence_level, draws):
    inside = []
    for j in range(delta.shape[1]):
        critical = mvt_critical_value(delta, j, confidence_level, draws)
        others = [delta[:, j] - delta[:, k] for k in range(delta.shape[1]) if k != j]
        inside.append(all(t_statistic(d, 0.0) <= critical for d in others))
    return np.array(inside)


def mvt_regret_bound(delta, pick, confidence_level, draws):
    bound = 0.0
    for i in np.flatnonzero(mvt_best_set(delta, confidence_level, draws)):
        if i != pick:
            d = delta[:, pick] - delta[:, i]
            error = d.std(ddof=1) / math.sqrt(len(d))
            bound = max(bound, d.mean() + mvt_critical_value(delta, i, confidence_level, draws) * error)
    return bound


def minimum_of_mean(x, rows):
    """Return the ends of what the minimum of the mean curve may be, and the error of one that a spline has found.

    The error is that of the delta method, sd(slopes of the rows there) / curvature of their mean / sqrt(rows), 0 where
    there is none.
    """
    mean = rows.mean(axis=0)
    i, last = int(mean.argmin()), len(x) - 1
    left, right = max(i - 1, 0), min(i + 1, last)
    rise = mean - mean[i]
    nearest = max(rise[left], rise[right])
    fine = [step <= 0.13 * (1 + 1e-9) for step in np.diff(x)]
    trusted = left < right and all(fine[left:right]) and nearest > 0
    if trusted and 2 <= i < last:
        trusted = rise[right] <= 4 * rise[i - 2]
    if trusted and 1 <= i < last - 1:
        trusted = rise[left] <= 4 * rise[i + 2]
    if not trusted:
        return x[left], x[right], 0.0
    begin, end = left, right
    for n in (2, 3, 4):
        if begin == i - n + 1 and i >= n and fine[i - n] and rise[i - n] <= 4 * n**2 * nearest:
            begin = i - n
        if end == i + n - 1 and i + n <= last and fine[i + n - 1] and rise[i + n] <= 4 * n**2 * nearest:
            end = i + n
    knots = slice(begin, end + 1)
    spline = CubicSpline(x[knots], mean[knots])
    roots = [r for r in spline.derivative().roots(extrapolate=False) if x[left] < r < x[right]]
    minimum = min([x[left], x[right], *roots], key=spline)
    if minimum in (x[left], x[right]):
        return minimum, minimum, 0.0
    slopes = [float(CubicSpline(x[knots], row[knots])(minimum, 1)) for row in rows]
    return minimum, minimum, np.std(slopes, ddof=1) / float(spline(minimum, 2)) / math.sqrt(len(rows))


def argmin_interval(rates, delta, confidence_level, rows):
    """Symmetric bootstrap-t of the minimum; where the data give it no error, expanded quantiles of resampled minima."""
    x, num_rows = np.log10(rates), len(delta)
    first, last, error = minimum_of_mean(x, delta)
    resampled = [minimum_of_mean(x, delta[row]) for row in rows]
    if error > 0:
        statistics = [max(abs(a - first), abs(b - first)) / (e or error) for a, b, e in resampled]
        half = order_statistic(statistics, confidence_level) * error
        low, high = first - half, last + half
    else:
        t = stats.t.ppf((1 + confidence_level) / 2, num_rows - 1)
        tail = stats.norm.cdf(-math.sqrt(num_rows / (num_rows - 1)) * t)
        low, high = quantile([a for a, _, _ in resampled], tail), quantile([b for _, b, _ in resampled], 1 - tail)
    return 10 ** max(low, x[0]), 10 ** min(high, x[-1])
