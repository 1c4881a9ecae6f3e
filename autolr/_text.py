"""Rates and losses as people write them."""


def format_rate(rate: float, *, digits: int = 2, plain_from: int = -2) -> str:
    """Return a rate as people write it: at most ``digits`` significant digits, plainly from 10^``plain_from`` on.

    Example:
        >>> format_rate(0.0031623), format_rate(1e-05), format_rate(0.25), format_rate(10.0)
        ('3.2e-3', '1e-5', '0.25', '10')
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
