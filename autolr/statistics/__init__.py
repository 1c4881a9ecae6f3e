"""Statistics of loss differentials, between the probes and the decision.

    data -> subsample -> probe -> loss differentials -> **statistics** -> decision -> picture

Every function takes a matrix ``delta (M, K)`` of loss differentials: a row is a subsample, a column a learning rate,
negative is good, ``inf`` is a probe that diverged. Rows are independent and columns are not, so that whole rows are
resampled. NumPy, SciPy and pandas are all that is needed: nothing here knows where the numbers came from.

What is said is about the source of the rows. Subsamples drawn independently from one dataset speak about that dataset,
however many they are; disjoint parts of it (``sampling="partition"``) speak about the population it came from too.
"""

from autolr.statistics.argmin_interval import argmin_interval
from autolr.statistics.bands import simultaneous_band
from autolr.statistics.best_set import best_set, regret_bound
from autolr.statistics.intervals import (
    bca_interval,
    bootstrap_t_interval,
    median_interval,
    percentile_interval,
    t_interval,
)
from autolr.statistics.proportions import binomial_interval
from autolr.statistics.sequential import confidence_sequence
from autolr.statistics.stability import stability

__all__ = [  # noqa: RUF022 (grouped)
    # one rate at a time
    "t_interval",
    "bootstrap_t_interval",
    "percentile_interval",
    "bca_interval",
    "median_interval",
    "binomial_interval",
    # all rates at once
    "simultaneous_band",
    "best_set",
    "regret_bound",
    "stability",
    # the best rate itself
    "argmin_interval",
    # while the rows still come
    "confidence_sequence",
]
