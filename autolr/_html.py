"""HTML: elements that escape what they hold, the words of a verdict, tables, pictures, and the page around them."""

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from autolr._text import format_rate
from autolr._version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CAVEAT, _DOUBT = "Caveat: ", "I cannot tell"
_NOTHING_KNOWN = "\N{EN DASH}"


class Markup(str):
    """Text that is HTML already: every other string is escaped where it is put into an element."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str) -> Markup:
    """Return an element; what is no :class:`Markup` in it is escaped.

    Args:
        name: Its name.
        *content: What is in it.
        **attributes: Its attributes; a final underscore is left out, others become hyphens.

    Example:
        >>> element("p", "1 < 2, ", element("b", "yes"), class_="sure", aria_label='"x"')
        '<p class="sure" aria-label="&quot;x&quot;">1 &lt; 2, <b>yes</b></p>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: str) -> Markup:
    """Return pieces one after the other; what is no :class:`Markup` is escaped."""
    return Markup("".join(map(_escape, content)))


def _escape(text: str) -> str:
    # half of a surrogate pair, which a name can hold, has no bytes in UTF-8
    return text if isinstance(text, Markup) else html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def verdict_html(verdict: str, pick: str | None = None) -> Markup:
    r"""Return a verdict with its pick in bold, and its caveats as a list below it.

    Args:
        verdict: Its lines.
        pick: The rate as the first line writes it. "I cannot tell" is bold in its place.

    Example:
        >>> verdict_html("Learning rate 0.1 is best.\nIt rises from 1 on.\nCaveat: Few rows.", "0.1")
        '<p>Learning rate <strong>0.1</strong> is best.<br>It rises from 1 on.</p><ul><li>Caveat: Few rows.</li></ul>'
    """
    lines = verdict.split("\n")
    decision = [line for line in lines if not line.startswith(_CAVEAT)]
    caveats = [element("li", line) for line in lines if line.startswith(_CAVEAT)]
    bold = _DOUBT if is_doubt(verdict) else pick
    before, found, after = decision[0].partition(bold) if bold else (decision[0], "", "")
    more = [part for line in decision[1:] for part in (Markup("<br>"), line)]
    told = element("p", before, *([element("strong", found)] if found else []), after, *more)
    return joined(told, element("ul", *caveats)) if caveats else told


def is_doubt(verdict: str) -> bool:
    """Return whether a verdict is that nothing can be told."""
    return verdict.startswith(_DOUBT)


class Column(NamedTuple):
    """A column of a table: its header, the numbers that it is sorted by, and what is shown for each (default: them)."""

    header: str
    numbers: Sequence[float]
    texts: Sequence[str] | None = None


def number_text(number: float) -> str:
    """Return a number with three significant digits.

    Example:
        >>> number_text(0.12345), number_text(1.5e-7), number_text(float("inf"))
        ('0.123', '1.5e-7', '∞')
    """
    if math.isnan(number):
        return _NOTHING_KNOWN
    if math.isinf(number):
        return "\N{INFINITY}" if number > 0.0 else "\N{MINUS SIGN}\N{INFINITY}"
    return format_rate(number, digits=3)


def sortable_table(caption: str, columns: Sequence[Column], marks: Sequence[str] | None = None) -> Markup:
    """Return a table whose rows can be sorted by each column; they come sorted by the first one, which names them.

    Args:
        caption: What it shows.
        columns: Its columns.
        marks: For each row ``"pick"``, ``"as good"`` or nothing: a column of its own after the first one.
    """
    cells = [_cells(column, "th" if column is columns[0] else "td") for column in columns]
    if marks is not None:
        ranks = ["", "as good", "pick"]
        numbers = [str(-ranks.index(mark)) for mark in marks]  # the best first
        marked = [element("td", mark, class_="mark", data_value=n) for mark, n in zip(marks, numbers, strict=True)]
        columns, cells = [columns[0], Column("best", []), *columns[1:]], [cells[0], marked, *cells[1:]]
    classes = {"": {}, "as good": {"class_": "good"}, "pick": {"class_": "good pick"}}
    rows = [
        element("tr", *row, **classes[mark])
        for row, mark in zip(zip(*cells, strict=True), marks or [""] * len(cells[0]), strict=True)
    ]
    heads = [element("th", columns[0].header, scope="col", aria_sort="ascending")]
    heads += [element("th", column.header, scope="col") for column in columns[1:]]
    head, body = element("thead", element("tr", *heads)), element("tbody", *rows)
    table = element("table", head, body, class_="sortable")
    hint = element("span", " Choose a column's header to sort by it.", class_="hint", hidden="")
    # no caption of its own: that would be as wide as the table, and cut off on a phone
    above = element("p", f"{caption}.", hint, class_="caption")
    return joined(above, element("div", table, class_="scroll", role="region", aria_label=caption, tabindex="0"))


def _cells(column: Column, name: str) -> list[Markup]:
    texts = map(number_text, column.numbers) if column.texts is None else column.texts
    scope = {"scope": "row"} if name == "th" else {}
    return [
        element(name, text, **scope, data_value=str(number).replace("inf", "Infinity"))
        for text, number in zip(texts, map(float, column.numbers), strict=True)
    ]


def words_table(rows: Iterable[tuple[str, str]]) -> Markup:
    """Return a table of names and what they are."""
    body = (element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows)
    return element("table", element("tbody", *body), class_="words")


def picture(
    draw: "Callable[[Figure], object]", caption: str, alternative: str, *, prefix: str, inches: tuple[float, float]
) -> Markup:
    """Return a picture as SVG, in matplotlib's default style whatever the user's is.

    Args:
        draw: What draws on an empty figure.
        caption: What stands below it.
        alternative: What it shows, in words, to those who do not see it.
        prefix: Of its ids, which pictures of one page must not share.
        inches: Its width and height; about 4 wide, its letters can be read on a phone too.
    """
    from matplotlib import rc_context, style
    from matplotlib.figure import Figure

    file = io.StringIO()
    # the salt makes names of clips and markers in the SVG the same ones at each call
    with style.context("default"), rc_context({"svg.hashsalt": "autolr", "svg.fonttype": "path"}):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return element("figure", _inline(file.getvalue(), prefix, alternative), element("figcaption", caption))


def _inline(svg: str, prefix: str, alternative: str) -> Markup:
    """Return a file of SVG as an element of a page that holds others: its ids have a prefix, its size is the page's."""
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|(?<=\n) +", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\1{prefix}", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return Markup(f'{opening} role="img" aria-label="{_escape(alternative)}">{rest}')


def page(title: str, *content: str) -> str:
    """Return a whole page: the browser is told to load nothing, and to run no script but the one in it.

    Args:
        title: Of the window.
        *content: What is in its body.
    """
    style, script = (resources.files("autolr").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # pictures have styles in attributes, which no hash can allow, and the bars of their colours in data
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = (
        '<meta charset="utf-8">',
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="autolr {__version__}">',
        element("title", title),
        f"<style>\n{style}</style>",
    )
    body = element("body", *content, Markup(f"<script>{script}</script>"))
    return "\n".join(("<!DOCTYPE html>", '<html lang="en">', "<head>", *head, "</head>", body, "</html>", ""))
