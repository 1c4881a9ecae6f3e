"""Loss differentials whose truth is known exactly: what the coverage benchmark draws from.

A generator is a function ``(rng, M) -> delta (M, K)`` with the truth of each of its K = 27 rates. The rates go in steps
of 0.1 decades from 67 times below to 5.9 times above the best one, which lies between two of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations

import numpy as np
from scipy import optimize, special

from autolr._typing import FloatArray

# Decimal logarithms of the rates over the best one.
EXPONENTS = np.linspace(-1.8, 0.8, 27) - 0.03
UNKNOWN = partial(np.full, EXPONENTS.size, np.nan)
# Regression: the start less the solution, the standard deviation of the targets' noise, and observations in a batch.
START = np.array([1.0, -2.0, 0.5])
NOISE = 0.5
BATCH_SIZE = 16
# Losses between 1 and 2 in float32 are multiples of this.
RESOLUTION = 2.0**-23


@dataclass(frozen=True, eq=False)
class Generator:
    """Differentials and their truth; NaN is "not known", or "not claimed".

    Attributes:
        draw: Draws the rows, from ``(rng, M)``, shape ``(M, K)``.
        mean: Means, ``inf`` where a probe can diverge, shape ``(K,)``.
        best_rate: The rate at which the mean curve is smallest, between the rates of the grid.
        learning_rates: The grid, shape ``(K,)``.
        median: Medians, shape ``(K,)``.
        prob_improve: Probabilities that the loss falls, shape ``(K,)``.
        prob_diverge: Probabilities that a probe diverges, shape ``(K,)``.
        heavy: Whether the tails are so heavy that nominal levels are out of reach at these M.
    """

    draw: Callable[[np.random.Generator, int], FloatArray]
    mean: FloatArray
    best_rate: float
    learning_rates: FloatArray
    median: FloatArray = field(default_factory=UNKNOWN)
    prob_improve: FloatArray = field(default_factory=UNKNOWN)
    prob_diverge: FloatArray = field(default_factory=partial(np.zeros, EXPONENTS.size))
    heavy: bool = False

    @property
    def best(self) -> FloatArray:
        """The columns with the smallest mean."""
        return np.flatnonzero(self.mean == np.nanmin(self.mean))


def grid(best_rate: float) -> FloatArray:
    """Return the rates around the best one, shape (K,)."""
    return best_rate * 10.0**EXPONENTS


def smooth_noise(decades: float) -> FloatArray:
    """Return F such that ``normal (M, K) @ F`` has variances 1 and correlations exp(-(difference / decades)^2 / 2)."""
    covariance = np.exp(-(((EXPONENTS[:, None] - EXPONENTS) / decades) ** 2) / 2.0)
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def quadratic(inputs: FloatArray, residuals: FloatArray) -> tuple[FloatArray, FloatArray]:
    r"""Return a and b of the exact differential :math:`-a\eta + b\eta^2` of one SGD step on a linear regression.

    With :math:`g = (2/m) \sum_i r_i x_i` the gradient of the mean square on a batch and :math:`g'` that on another one,
    on which the loss is measured, :math:`a = g^T g'` and :math:`b = (1/m) \sum_k (g^T x'_k)^2`.

    Args:
        inputs: Both batches of each of M rows, shape ``(2, M, m, p)``.
        residuals: Predictions less targets, shape ``(2, M, m)``.
    """
    gradient, other = 2.0 * (residuals[..., None] * inputs).mean(axis=-2)
    return (gradient * other).sum(axis=-1), ((inputs[1] @ gradient[..., None])[..., 0] ** 2).mean(axis=-1)


def observations(rng: np.random.Generator, *shape: int) -> tuple[FloatArray, FloatArray]:
    """Draw inputs, shape ``(*shape, p)``, and residuals at the start, of that shape, of the regression."""
    inputs = rng.normal(size=(*shape, START.size))
    return inputs, inputs @ START - NOISE * rng.normal(size=shape)


def population_quadratic() -> tuple[float, float]:
    r"""Return the expectations of a and b for standard normal inputs.

    With :math:`e` the start less the solution, :math:`r = x^T e - \sigma\epsilon`, and both batches independent,
    :math:`E g = 2e`, so that :math:`E a = 4|e|^2`. As :math:`E x x^T = I`,
    :math:`E b = E|g|^2 = (4/m^2) [m E r^2|x|^2 + m(m-1)|e|^2]`, and by the moments of the normal distribution
    :math:`E r^2 |x|^2 = (p + 2)|e|^2 + p\sigma^2`.
    """
    squared, size = float(START @ START), START.size
    return 4.0 * squared, 4.0 * (squared * (1.0 + (size + 1) / BATCH_SIZE) + size * NOISE**2 / BATCH_SIZE)


def dataset_quadratic(inputs: FloatArray, residuals: FloatArray, batch_size: int) -> tuple[float, float]:
    r"""Return the averages of a and b over all pairs of disjoint batches of one dataset.

    With :math:`u_i = r_i x_i` and :math:`A_{ik} = u_i^T x_k`, those of a are :math:`4 u_i^T u_j` over :math:`i \ne j`,
    and those of b :math:`(4/m^2) [m A_{ik}^2 + m(m-1) A_{ik} A_{jk}]` over different :math:`i, j, k`.

    Args:
        inputs: The dataset, shape ``(N, p)``.
        residuals: Predictions less targets, shape ``(N,)``.
        batch_size: Observations m in a batch.
    """
    count = len(inputs)
    terms = residuals[:, None] * inputs
    a = 4.0 * ((terms.sum(axis=0) ** 2).sum() - (terms**2).sum()) / (count * (count - 1))
    products = terms @ inputs.T
    np.fill_diagonal(products, 0.0)
    squares = (products**2).sum(axis=0)
    pairs = (products.sum(axis=0) ** 2 - squares).sum() / (count * (count - 1) * (count - 2))
    own = squares.sum() / (count * (count - 1))
    return a, 4.0 / batch_size * (own + (batch_size - 1) * pairs)


@cache
def regression() -> Generator:
    """One SGD step on a linear regression, both batches of 16 fresh from the population; curvatures are skewed."""
    a, b = population_quadratic()
    rates = grid(a / (2.0 * b))

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        slope, curvature = quadratic(*observations(rng, 2, num_rows, BATCH_SIZE))
        return -slope[:, None] * rates + curvature[:, None] * rates**2

    return Generator(draw, -a * rates + b * rates**2, a / (2.0 * b), rates)


class FiniteData:
    """One SGD step on a logistic regression on 16 observations, batches of 3 and disjoint: 160160 different rows."""

    def __init__(self) -> None:
        rng = np.random.default_rng(16)
        inputs = rng.normal(size=(16, 2))
        self.start = np.array([-0.5, 0.5])
        self.signed = np.where(rng.random(16) < special.expit(inputs @ [2.0, -1.0]), 1.0, -1.0)[:, None] * inputs
        self.batches = np.zeros((560, 16))  # shares of the observations
        self.batches[np.arange(560)[:, None], list(combinations(range(16), 3))] = 1.0 / 3.0
        gradients = -special.expit(-self.signed @ self.start)[:, None] * self.signed
        self.steps = self.batches @ gradients

    def differentials(self, rates: FloatArray) -> FloatArray:
        """Return the change of each observation's loss by each step, shape (560, K, 16)."""
        before = self.signed @ self.start
        margins = before - rates[:, None] * (self.steps @ self.signed.T)[:, None, :]
        return np.logaddexp(0.0, -margins) - np.logaddexp(0.0, -before)

    def mean(self, rates: FloatArray) -> FloatArray:
        """Return the mean over all rows, shape (K,): every observation outside of the step's batch is as likely."""
        outside = (self.batches == 0.0) / 13.0
        return np.einsum("bkn,bn->bk", self.differentials(rates), outside).mean(axis=0)

    def rows(self, rates: FloatArray) -> FloatArray:
        """Return all rows, shape (560 * 286, K)."""
        table = self.differentials(rates) @ self.batches.T
        step, evaluation = np.nonzero(self.batches @ self.batches.T == 0.0)
        return table[step, :, evaluation]


@cache
def finite_data() -> Generator:
    """Rows of a dataset, drawn from the list of all that there are; their truth is that list's."""
    data = FiniteData()
    minimum = optimize.minimize_scalar(
        lambda exponent: data.mean(np.array([10.0**exponent]))[0],
        bounds=(-2.0, 2.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    best_rate = float(10.0**minimum.x)
    rates = grid(best_rate)
    rows = data.rows(rates)

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        return rows[rng.integers(len(rows), size=num_rows)]

    return Generator(
        draw, data.mean(rates), best_rate, rates, median=np.median(rows, axis=0), prob_improve=(rows < 0.0).mean(axis=0)
    )


@cache
def correlated_gaussian() -> Generator:
    """A parabola in the log of the rate with smooth normal noise, the same at all rates."""
    mean, factor, scale = EXPONENTS**2 - 1.0, smooth_noise(0.7), 0.5

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        return mean + scale * rng.normal(size=(num_rows, mean.size)) @ factor

    return Generator(draw, mean, 0.1, grid(0.1), median=mean, prob_improve=special.ndtr(-mean / scale))


@cache
def ties() -> Generator:
    """Eleven rates exactly tied for the best, worse ones on both sides; normal noise of the row and of each probe."""
    off = np.maximum(np.abs(np.arange(EXPONENTS.size) - 13) - 5, 0)
    mean = 0.3 * off - 1.0

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        return mean + 0.5 * (rng.normal(size=(num_rows, 1)) + rng.normal(size=(num_rows, mean.size)))

    return Generator(draw, mean, np.nan, grid(0.1), median=mean, prob_improve=special.ndtr(-mean / np.sqrt(0.5)))


@cache
def diverging() -> Generator:
    """From a rate on each row diverges with probability 0.25 or more; where it does not, the loss falls most there."""
    finite, factor, scale = (EXPONENTS - 0.5) ** 2 - 1.0, smooth_noise(0.3), 0.5
    diverge = np.where(EXPONENTS < 0.2, 0.0, np.minimum(0.25 + 1.5 * (EXPONENTS - 0.27), 1.0))

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        delta = finite + scale * rng.normal(size=(num_rows, finite.size)) @ factor
        return np.where(rng.random((num_rows, 1)) < diverge, np.inf, delta)

    # The median of the mixture: the finite part is below it with probability 1/2.
    below = np.minimum(0.5 / np.maximum(1.0 - diverge, 0.5), 1.0)
    return Generator(
        draw,
        np.where(diverge > 0.0, np.inf, finite),
        np.nan,
        grid(0.1),
        median=finite + scale * special.ndtri(below),
        prob_improve=(1.0 - diverge) * special.ndtr(-finite / scale),
        prob_diverge=diverge,
    )


@cache
def float32_resolution() -> Generator:
    """Quadratics in the rate with normal coefficients, rounded to the resolution of float32 losses between 1 and 2.

    The means are those of the rounded values. Where even the standard deviation is below half the resolution nothing
    is claimed of them: most values are 0 there.
    """
    ratio, unit, spread = 10.0**EXPONENTS, 2e-6, 0.5
    exact = unit * (ratio**2 - 2.0 * ratio)
    scale = unit * spread * np.sqrt(ratio**4 + 4.0 * ratio**2)

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        slope, curvature = rng.normal(1.0, spread, size=(2, num_rows, 1))
        return RESOLUTION * np.round(unit * (curvature * ratio**2 - 2.0 * slope * ratio) / RESOLUTION)

    multiples = np.arange(-6000.0, 6000.0)[:, None]
    edges = (RESOLUTION * np.append(multiples - 0.5, multiples[-1:] + 0.5, axis=0) - exact) / scale
    mean = RESOLUTION * (multiples * np.diff(special.ndtr(edges), axis=0)).sum(axis=0)
    claimed = scale >= RESOLUTION / 2.0
    improve = special.ndtr((-RESOLUTION / 2.0 - exact) / scale)
    return Generator(draw, np.where(claimed, mean, np.nan), 0.1, grid(0.1), prob_improve=improve)


@cache
def heavy_tails() -> Generator:
    """A parabola in the log of the rate, with smooth log-normal noise of skewness 6.2 that grows with the rate."""
    mean, factor, scale = EXPONENTS**2 - 1.0, smooth_noise(0.7), 0.2 * 10.0 ** (EXPONENTS / 2.0)

    def draw(rng: np.random.Generator, num_rows: int) -> FloatArray:
        return mean + scale * (np.exp(rng.normal(size=(num_rows, mean.size)) @ factor) - np.exp(0.5))

    median = mean + scale * (1.0 - np.exp(0.5))
    level = np.exp(0.5) - mean / scale  # of the log-normal variable, below which the loss falls
    improve = np.where(level > 0.0, special.ndtr(np.log(np.maximum(level, 1e-300))), 0.0)
    return Generator(draw, mean, 0.1, grid(0.1), median=median, prob_improve=improve, heavy=True)


GENERATORS: dict[str, Callable[[], Generator]] = {
    "regression": regression,
    "finite data": finite_data,
    "correlated Gaussian": correlated_gaussian,
    "ties": ties,
    "diverging": diverging,
    "float32 resolution": float32_resolution,
    "heavy tails": heavy_tails,
}
