"""The verdict of a search, in a few plain sentences."""

from typing import TYPE_CHECKING

from autolr._text import format_rate

if TYPE_CHECKING:
    from autolr.suggestion import Suggestion

_TARGETS = {"validation": "held-out", "training": "training"}


def search_verdict(suggestion: "Suggestion") -> str:
    """Return the decision of a search in words: the rate, for which run, its interval, the edge, what it cost."""
    settings, decision = suggestion.evidence.settings, suggestion.evidence.decision
    rate = format_rate(suggestion.learning_rate)
    # a hook reads the user's own scheduler off as such a function
    schedule = "a schedule of its own" if settings["schedule"] == "lambda" else f"the schedule {settings['schedule']}"
    run = f"{settings['total_steps']} steps under {schedule}"
    lines = [f"Learning rate {rate}, for {run} and the best {_TARGETS[settings['target']]} loss."]
    if suggestion.doubt is not None:
        lines[0] = _doubt(suggestion)
    lines.append(
        f"The best one lies between {format_rate(suggestion.low)} and {format_rate(suggestion.high)}: for about"
        f" {100.0 * suggestion.confidence_level:.0f}% of the tasks of a benchmark, such an interval held a rate within"
        " 5% of the best."
    )
    if decision["smallest_diverged"] is not None:
        lines.append(f"Training diverges from {format_rate(decision['smallest_diverged'])} on.")
    share = settings["num_evaluations"] / settings["total_steps"]
    lines.append(
        f"From {settings['num_rates']} rates on {settings['scan_steps']} to {decision['last_step']} steps each:"
        f" {settings['num_evaluations']:.0f} gradient evaluations in {settings['seconds']:.1f} s,"
        f" {_percent(share)} of the run."
    )
    lines += [f"Caveat: {caveat}" for caveat in suggestion.caveats]
    return "\n".join(lines)


def _doubt(suggestion: "Suggestion") -> str:
    rate = format_rate(suggestion.learning_rate)
    if suggestion.doubt == "flat":
        return (
            f"I cannot tell: at no rate does training lower the loss within {suggestion.horizon} steps; the least bad"
            f" is {rate}. Check that there is something left to learn, and the sign and the scale of the loss."
        )
    end = "largest" if suggestion.at_grid_edge == "high" else "smallest"
    return f"I cannot tell: {rate} comes from the {end} rate that is tried. Check the scale of the loss and the data."


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f}%" if share >= 0.0095 else f"{100.0 * share:.1g}%"
