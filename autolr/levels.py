"""At which level the numbers of a result may speak: the one asked for, corrected for how often it was looked at."""

from dataclasses import dataclass

from autolr._typing import Settings
from autolr._validation import check_confidence_level, check_integer, invalid
from autolr.statistics.sequential import enough_resamples, look_level

DEFAULT_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Level:
    """The level of all intervals, sets and bounds of a result.

    Attributes:
        nominal: The level asked for. What all looks together hold with is another question: see :func:`level_of`.
        corrected: The level at which each is computed: the nominal one, higher where there was more than one look.
    """

    nominal: float
    corrected: float

    def resamples(self, num_resamples: int) -> int:
        """Return how many resamples to use: the number given, or as many as a corrected level needs."""
        if self.corrected == self.nominal:
            return check_integer("num_resamples", num_resamples, minimum=1)
        return enough_resamples(self.corrected, num_resamples)


def level_of(settings: Settings, confidence_level: float | None = None) -> Level:
    r"""Return the level for a result with these settings.

    An adaptive tuning plans its looks, and all of them share the error; see
    :func:`autolr.statistics.sequential.look_level`. A result that was extended was seen before, without a plan: its
    k-th state is corrected as the k-th of any number of looks. The first one, before any extension, is not corrected,
    as none was to follow. With :math:`\alpha` for 1 minus the level, all states from the second on together spend at
    most :math:`0.39 \alpha`, and with the first one up to :math:`1.39 \alpha`.

    Args:
        settings: Of a result. ``confidence_level`` is the default, ``num_looks`` how many an adaptive tuning planned,
            ``num_extensions`` how often rows were added.
        confidence_level: The level asked for; ``None``: that of the tuning, or 0.95.

    Raises:
        TypeError: If ``confidence_level`` is not a real number.
        ValueError: If it is outside of (0, 1), or above the one by which an adaptive tuning dropped rates: of these
            nothing is known at that level.
    """
    own = check_confidence_level(settings.get("confidence_level", DEFAULT_LEVEL))
    level = own if confidence_level is None else check_confidence_level(confidence_level)
    if settings.get("adaptive"):
        if level > own:
            raise ValueError(
                invalid("confidence_level", f"be at most that of the adaptive tuning, {own:g}", confidence_level)
            )
        num_looks = settings.get("num_looks", 1)
        return Level(level, look_level(level, 1, num_looks) if num_looks != 1 else level)
    extensions = settings.get("num_extensions", 0)
    return Level(level, look_level(level, extensions + 1) if extensions else level)
