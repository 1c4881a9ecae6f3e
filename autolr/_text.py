"""Rates, losses and verdicts as people write them."""

from collections.abc import Iterable, Sequence

from autolr._typing import Settings

# What one step, some steps or a range test leave open, and who tells it.
WHOLE_RUN = "Next: search for the rate of a whole run with autolr.find_lr; {} does not tell it."


def format_rate(rate: float, *, digits: int = 2, plain_from: int = -2) -> str:
    """Return a rate as people write it, with at most ``digits`` significant digits.

    The one rule of the package: below 10^``plain_from``, by default 0.01, and from 10 000 on in scientific notation,
    with neither a plus nor a leading zero in the exponent; plainly between them. Losses are written by it too.

    Example:
        >>> format_rate(0.0031623), format_rate(1e-05), format_rate(0.0171), format_rate(1.5), format_rate(20000.0)
        ('3.2e-3', '1e-5', '0.017', '1.5', '2e4')
    """
    if rate == 0.0:
        return "0"
    mantissa, exponent = f"{rate:.{digits - 1}e}".split("e")
    if plain_from <= int(exponent) < 4:
        text = f"{float(f'{mantissa}e{exponent}'):f}".rstrip("0").rstrip(".")
    else:
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if rate < 0.0 else text


def lost_batches(number: int) -> str:
    """Return the caveat on batches that were drawn from an iterator.

    Example:
        >>> lost_batches(1)
        'An iterator was drawn on, and has lost 1 batch: train on a fresh one.'
    """
    return f"An iterator was drawn on, and has lost {number} batch{'' if number == 1 else 'es'}: train on a fresh one."


def format_ends(low: float, high: float) -> tuple[str, str]:
    """Return two rates with as many digits, two to six, as tell them apart.

    Example:
        >>> format_ends(0.31, 0.45), format_ends(0.42003, 0.42009)
        (('0.31', '0.45'), ('0.42', '0.4201'))
    """
    several = ((format_rate(low, digits=digits), format_rate(high, digits=digits)) for digits in range(2, 7))
    return next((ends for ends in several if ends[0] != ends[1]), (format_rate(low), format_rate(high)))


def format_rates(rates: Sequence[float], *, digits: int = 2) -> list[str]:
    """Return rates with ``digits`` digits, or with as many more as tell them apart.

    Example:
        >>> format_rates([0.1, 0.316]), format_rates([1.0, 1.036, 1.074])
        (['0.1', '0.32'], ['1', '1.04', '1.07'])
    """
    texts: list[str] = []
    for wider in range(digits, 18):
        texts = [format_rate(rate, digits=wider) for rate in rates]
        if len(set(texts)) == len(set(rates)):
            break
    return texts


def cost_of(settings: Settings) -> str:
    """Return what a result has cost, of its settings.

    Example:
        >>> cost_of({"num_evaluations": 300.0, "seconds": 1.2})
        '300 gradient evaluations in 1.2 s'
    """
    return f"{settings['num_evaluations']:.0f} gradient evaluations in {settings['seconds']:.1f} s"


def verdict_of_lines(lines: Iterable[str], caveats: Iterable[str] = ()) -> str:
    """Return a verdict of its lines, those that say something, and of its caveats, a line each.

    Example:
        >>> print(verdict_of_lines(["Learning rate 0.1.", "", "Next: train."], ["It is a guess."]))
        Learning rate 0.1.
        Next: train.
        Caveat: It is a guess.
    """
    return "\n".join([*filter(None, lines), *(f"Caveat: {caveat}" for caveat in caveats)])
