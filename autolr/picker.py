"""The arithmetic of the search: from the losses of a few rates after some steps to the rate for a whole run.

The constants are those of a study of 35 small tasks (linear and ill-scaled regression, digits with four optimizers, a
convolutional net with BatchNorm, diabetes regression, an autoencoder, fine-tuning, a character transformer), each
trained to the end at 25 rates, under constant and cosine schedules; 18 others were kept apart until the constants were
fixed. What they do here is measured by ``benchmarks/regret.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy import stats

from autolr._typing import FloatArray

Target: TypeAlias = Literal["validation", "training"]
Effort: TypeAlias = Literal["fast", "default", "thorough"]

# Half a decade between rates. Finer scans cost more and pick the same: the vertex is found between the rates anyway.
STEP = 0.5
# The scan begins here: for no optimizer of torch is a larger rate usual, and rates that are too large give up in a few
# steps. Where it is the best one, the scan goes on upwards.
TOP = 10.0
# It ends here at the latest: a choice, not measured. A best rate beyond them is not found, and the verdict says that it
# lies at an edge; data on which all rates diverge costs 19 rates of a few steps each until that is known.
HIGHEST, LOWEST = 1e4, 1e-8
# Steps of the scan. On plateaus nothing is seen for 5 to 10 steps, so that 12 is clearly worse; 25 to 40 are as good.
SCAN_STEPS = 20
# Steps of the finalists: 50 are cheaper (190 evaluations in place of 290) and a little worse, 100 hardly better.
FINAL_STEPS: dict[Effort, int] = {"fast": 50, "default": 80, "thorough": 100}
# A finalist's rate falls to 0 over this share of its steps at the end, which takes the noise floor out of the
# comparison: the largest single gain of the study.
ANNEAL_SHARE = 0.2
# A loss is hopeless above this many times the untrained one; 2 to 5 change the mean regret by less than 0.015.
HOPELESS = 3.0
# Log losses further above the best finalist count as this far: a parabola has no use for how bad a bad rate is. 0.25 to
# 1 change the mean regret by less than 0.015.
LARGEST_GAP = 0.5
# With less than this fall of the loss in the scan, a dead network that sits at a better constant loss looks like
# progress: the scan then takes more than one worse rate to end, and the loss may be a plateau. The value is a choice,
# not measured: too small, dead networks end the scan at rates that are too large; too large, slow but true progress is
# taken for a plateau, which costs steps.
CLEAR_FALL = 0.02
PATIENCE, PATIENCE_UNCLEAR = 1, 2
# A rate that changes no loss by more than this share of it, step by step, has no effect: smaller ones have less. A
# choice, not measured: too small, the scan goes on to rates that do nothing; too large, it ends before a rate that
# lowers the loss slowly at first.
NO_EFFECT = 1e-3
# The best rate falls with the length T of the run as T^-b: faster under a constant rate, whose noise never ends. In the
# study 0.4 to 0.6 were equal within 0.015 of mean regret. On the tasks of benchmarks/regret.py by which constants may
# be chosen, 0.2, 0.4 and 0.5 gave 1.16, 1.20 and 1.23 under a constant rate, 0.2, 0.35, 0.4 and 0.5 gave 1.13, 1.10,
# 1.11 and 1.14 under a cosine: these are between what both say. The exponent that would be right differs from task to
# task, from 0 (nothing but curvature limits the rate) to 0.9 (noise, overfitting), and is most of the error that is
# left. The rate with the best training loss hardly falls.
EXPONENT_CONSTANT, EXPONENT_DECAYING, EXPONENT_TRAINING = 0.4, 0.35, 0.0
# Half of the interval, in decades. In the study 0.5 held a rate within 5% of the best held-out loss in 89 to 92% of the
# cases of each family of tasks, 0.65 one of the best training loss in 89 to 92%. In benchmarks/regret.py, 0.5 did in
# 94% of the tasks for choosing but in 76% of those that only judge, 0.65 in 97% and 87%: so 0.65 for both. With that,
# no tasks are left that judge the interval of the held-out loss.
HALF_WIDTH: dict[Target, float] = {"validation": 0.65, "training": 0.65}
CONFIDENCE_LEVEL = 0.9
# The standard deviation of the vertex over streams, in decades: the median over the tasks.
STREAM_ERROR = 0.13
# A schedule whose last tenth is below this share of its largest factor decays. A choice, not measured: the schedules of
# the benchmark are constant or end at 0, and what it decides is an exponent of 0.4 or 0.35, at 10,000 steps a quarter
# of a rate.
DECAYED = 0.5
# The length of the run, where it is not told: a choice, not measured, of the order of the runs of the study. The rate
# of a run that is ten times as long is 2.5 times smaller under a constant rate, which a caveat says.
USUAL_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Correction:
    """What turns the best rate of a short probe into the one of the run.

    Attributes:
        total_steps: The steps T of the run.
        mean_factor: The mean of the schedule's factors over the run.
        decays: Whether the schedule ends far below its largest factor.
        exponent: The b of the law T^-b.
    """

    total_steps: int
    mean_factor: float
    decays: bool
    exponent: float

    def factor(self, num_steps: int) -> float:
        r"""Return :math:`\min(1, k / T)^b / \bar f`, for a probe of k steps and the mean factor :math:`\bar f`."""
        share = min(1.0, num_steps / self.total_steps)
        return float(share**self.exponent) / self.mean_factor


def correction(factors: FloatArray, total_steps: int, target: Target) -> Correction:
    """Return the correction for a schedule.

    Args:
        factors: The rate in each step of the run, in units of the picked rate; of a constant schedule, one factor.
        total_steps: The steps of the run.
        target: Which loss is to be best at the end.
    """
    last = factors[-max(1, len(factors) // 10) :]
    decays = bool(last.mean() < DECAYED * factors.max())
    exponent = EXPONENT_DECAYING if decays else EXPONENT_CONSTANT
    return Correction(
        total_steps, float(factors.mean()), decays, EXPONENT_TRAINING if target == "training" else exponent
    )


def gaps(losses: FloatArray, untrained: float) -> tuple[FloatArray, str]:
    r"""Return by how much each loss is worse than the best one, at most 0.5, and in which measure.

    The measure is the log of the loss, :math:`\log L_i - \log \min_j L_j`, which does not depend on the unit. A loss
    that can be 0 or below has no log: then it is the share of the gain that is lost, :math:`(L_i - \min_j L_j) / (L_0 -
    \min_j L_j)` with the untrained loss :math:`L_0`.

    Args:
        losses: Losses of some rates, ``inf`` where there is none, shape ``(n,)``, not all infinite.
        untrained: The loss before any step.

    Example:
        >>> gaps(np.array([1.0, 1.25, np.inf]), 2.0)
        (array([0.        , 0.22314355, 0.5       ]), 'log loss')
        >>> gaps(np.array([-2.0, -1.5, np.inf]), 3.0)
        (array([0. , 0.1, 0.5]), 'share of the gain')
    """
    best = float(losses.min())
    if best > 0.0:
        return np.minimum(np.log(losses / best), LARGEST_GAP), "log loss"
    gain = untrained - best
    share = (losses - best) / gain if gain > 0.0 else np.where(losses > best, np.inf, 0.0)
    return np.minimum(share, LARGEST_GAP), "share of the gain"


def vertex(exponents: Sequence[float], heights: FloatArray) -> float:
    r"""Return where, within three equidistant points, the parabola through them is lowest.

    For :math:`x_1 - h, x_1, x_1 + h` that is :math:`x_1 + \frac{h}{2} \frac{y_0 - y_2}{y_0 - 2 y_1 + y_2}`, or the end
    that is nearer to it. Where the parabola has no minimum, it is the lowest point.

    Args:
        exponents: Decimal logarithms of the rates, increasing.
        heights: What is to be lowest, shape ``(3,)``.

    Example:
        >>> vertex([-1.0, -0.5, 0.0], np.array([0.4, 0.0, 0.4])), vertex([-1.0, -0.5, 0.0], np.array([0.4, 0.0, 0.0]))
        (-0.5, -0.25)
    """
    low, middle, high = (float(height) for height in heights)
    spacing = (exponents[2] - exponents[0]) / 2.0
    bend = low - 2.0 * middle + high
    if bend <= 0.0:
        return float(exponents[int(np.argmin(heights))])
    offset = spacing / 2.0 * (low - high) / bend
    # NOTE: of losses that fall nearly along a line, noise decides how far away the vertex is: anywhere beyond the end,
    # or at it where the line bends the other way. Beyond the ends nothing was trained.
    return float(exponents[1]) + min(max(offset, -spacing), spacing)


def half_width(target: Target, vertices: Sequence[float]) -> float:
    r"""Return half of the interval of the best rate, in decades.

    The calibrated half-width :math:`w` covers the error of the law and that of one stream, whose standard deviation is
    :math:`\sigma_0 = 0.13` decades in the study. With the vertices of n streams, that error becomes the one of their
    mean: :math:`\sqrt{w^2 - z^2 \sigma_0^2 + z^2 \hat\sigma^2 / n}`, where z is the normal quantile of the level and
    :math:`\hat\sigma^2 = (2 \sigma_0^2 + \sum_i (v_i - \bar v)^2) / (n + 1)`, in which the study counts as two
    observations. Streams that disagree widen the interval, streams that agree narrow it a little.

    Args:
        target: Which loss is to be best.
        vertices: The decimal logarithm of the vertex of each stream.

    Example:
        >>> half_width("validation", [-1.0]), round(half_width("validation", [-1.0, -1.8]), 2)
        (0.65, 0.73)
    """
    quantile = float(stats.norm.ppf((1.0 + CONFIDENCE_LEVEL) / 2.0))
    num = len(vertices)
    variance = (2.0 * STREAM_ERROR**2 + float(np.var(vertices)) * num) / (num + 1.0)
    return math.sqrt(HALF_WIDTH[target] ** 2 + quantile**2 * (variance / num - STREAM_ERROR**2))
