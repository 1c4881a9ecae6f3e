"""The verdict of a search, in at most five short lines and the caveats."""

from typing import TYPE_CHECKING

from autolr._text import cost_of, format_ends, format_rate, verdict_of_lines

if TYPE_CHECKING:
    from autolr.suggestion import Suggestion

_TARGETS = {"validation": "held-out", "training": "training"}


def search_verdict(suggestion: "Suggestion") -> str:
    """Return the decision of a search in words: the rate, its interval, the edge, the cost, what to do next."""
    decision, diverged = suggestion.evidence.decision, suggestion.evidence.decision["smallest_diverged"]
    if suggestion.doubt is None:
        low, high = format_ends(decision["low"], decision["high"])
        share = f"{100.0 * suggestion.confidence_level:.0f}%"
        answer = _answer(suggestion)
        certainty = (
            f"Between {low} and {high} lies a rate within 5% of the best loss, for about {share} of benchmark tasks."
        )
        remedy = "Next: train with it; suggestion.apply(optimizer) sets it."
    else:
        (answer, remedy), certainty = _doubt(suggestion), ""
    edge = "" if diverged is None else f"Training diverges from {format_rate(diverged)} on."
    return verdict_of_lines([answer, certainty, edge, _evidence(suggestion), remedy], suggestion.caveats)


def _answer(suggestion: "Suggestion") -> str:
    settings = suggestion.evidence.settings
    # a hook reads the user's own scheduler off as such a function
    schedule = "a schedule of its own" if settings["schedule"] == "lambda" else f"the schedule {settings['schedule']}"
    run = f"{settings['total_steps']} steps under {schedule}"
    rate = format_rate(suggestion.learning_rate)
    return f"Learning rate {rate}, for {run} and the best {_TARGETS[settings['target']]} loss."


def _doubt(suggestion: "Suggestion") -> tuple[str, str]:
    """Return why the rate cannot be told, and what helps."""
    if suggestion.doubt == "flat":
        return (
            f"I cannot tell: at no rate does training lower the loss within {suggestion.horizon} steps.",
            "Next: check that there is something left to learn, and the sign and the scale of the loss.",
        )
    end = "largest" if suggestion.at_grid_edge == "high" else "smallest"
    return (
        f"I cannot tell: {format_rate(suggestion.learning_rate)} comes from the {end} rate that is tried.",
        "Next: check the scale of the loss and of the data.",
    )


def _evidence(suggestion: "Suggestion") -> str:
    settings, last = suggestion.evidence.settings, suggestion.evidence.decision["last_step"]
    first = settings["scan_steps"]
    steps = f"{first}" if first == last else f"{first} to {last}"
    share = settings["num_evaluations"] / settings["total_steps"]
    of_the_run = f"{100.0 * share:.0f}%" if share >= 0.0095 else f"{100.0 * share:.1g}%"
    how = f"{settings['num_rates']} rates, {steps} steps each"
    return f"Measured at {how}: {cost_of(settings)}, {of_the_run} of the run."
