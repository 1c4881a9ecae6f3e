"""The report: one page that needs nothing else, shows the numbers of the result, and escapes what it is handed."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from report_cases import NAMES, SCRIPT, record, search, tuning

from autolr import LossDifferentials, TuningResult, linear_grid, log_grid
from autolr._html import Column, element, sortable_table, verdict_html
from autolr.report import _table_of_courses
from autolr.schedules.comparison import HISTORY_COLUMNS, ScheduleComparison
from autolr.taylor import TaylorExpansion

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page in pieces: ids, attributes, tables as lists of rows of (text, data-value), and all of its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.attributes, self.tables, self.texts, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag in VOID else [tag]
        self.tags.append(tag)
        attrs = dict(attrs)
        self.attributes += attrs.items()
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append(["", attrs.get("data-value")])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1][0] += data


def written(result, tmp_path, **options):
    result.to_html(tmp_path / "lr.html", **options)
    text = (tmp_path / "lr.html").read_text("utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a tuning and of a search, with the names of the user's full of code."""
    results = {"tuning": tuning(np.random.default_rng(0), **NAMES), "search": search(num_streams=2, **NAMES)}
    folder = tmp_path_factory.mktemp("pages")
    return {kind: (result, *written(result, folder)) for kind, result in results.items()}


def losses_of(kind, rng):
    """Return results that are hard to show, by name."""
    rates = log_grid(1e-3, 1.0, 5)
    if kind == "every rate diverges":
        return TuningResult(LossDifferentials(rates, np.ones(4), np.full((4, 5), np.inf)))
    if kind == "no rate was probed in every row":
        post = np.ones((4, 5))
        post[[0, 1, 2, 3, 0], [0, 1, 2, 3, 4]] = np.nan
        return TuningResult(LossDifferentials(rates, np.ones(4), post), {"adaptive": True})
    if kind == "flat":
        return TuningResult(record(rates, np.zeros(5), rng))
    if kind == "one rate":
        return tuning(rng, np.array([0.1]))
    if kind == "200 rates on a line":
        return TuningResult(record(linear_grid(0.1, 0.2, 200), -np.ones(200), rng, num_rows=5))
    if kind == "several horizons":
        one = record(rates, -8.0 * rates + 20.0 * rates**2, rng).loss_post
        post = np.concatenate([one, one - 1.0], axis=2)
        return TuningResult(LossDifferentials(rates, np.full(20, 3.0), post, horizons=[1, 5]))
    if kind == "interpolated, not probed, and diverged":
        post = record(rates, -8.0 * rates + 20.0 * rates**2, rng).loss_post
        post = post.copy()
        post[:10, 0], post[3, 4] = np.nan, np.inf
        mask = np.zeros(post.shape, dtype=bool)
        mask[5:, 2] = True
        return TuningResult(LossDifferentials(rates, np.full(20, 3.0), post, interpolated=mask))
    frame = pd.DataFrame({"subsample": [0, 1, 0, 1], "learning_rate": [0.1, 0.1, 1.0, 1.0], "loss_pre": 1.0})
    return TuningResult(LossDifferentials.from_frame(frame.assign(loss_post=[0.5, 0.6, 2.0, 3.0])))


@pytest.mark.parametrize(
    "kind",
    [
        "every rate diverges",
        "no rate was probed in every row",
        "flat",
        "one rate",
        "200 rates on a line",
        "several horizons",
        "interpolated, not probed, and diverged",
        "logged elsewhere",
    ],
)
def test_whatever_the_result_is_its_page_is_whole_and_begins_with_its_verdict(kind, rng, tmp_path):
    result = losses_of(kind, rng)
    _, page = written(result, tmp_path)
    assert all(line in "".join(page.texts) for line in str(result).splitlines())
    assert len(page.tables[0]) == 1 + result.differentials.learning_rates.size
    assert ("measured elsewhere" in "".join(page.texts)) == ("engine" not in result.settings)


def test_the_table_has_the_numbers_of_the_summary_and_marks_the_pick(pages):
    result, _, page = pages["tuning"]
    suggestion, summary, (head, *rows) = result.suggest(), result.summary(), page.tables[0]
    names = {"learning rate": "learning_rate", "mean dL": "mean", "from": "low", "to": "high", "band to": "band_high"}
    for column, (header, _) in enumerate(head):
        shown = [float(row[column][1]) for row in rows]
        if header in names:
            np.testing.assert_array_equal(shown, summary.reset_index()[names[header]])
    marks = {float(row[0][1]): row[1][0] for row in rows}
    assert marks.pop(suggestion.learning_rate) == "pick"
    assert {rate for rate, mark in marks.items() if mark} == {*suggestion.best_set} - {suggestion.learning_rate}


def test_another_method_is_told_of_as_it_is_printed(pages, tmp_path):
    result, *_ = pages["tuning"]
    _, page = written(result, tmp_path, method="max")
    assert str(result.suggest("max")).splitlines()[0] in "".join(page.texts)


def test_the_page_is_the_same_at_each_call_whatever_the_style_and_changes_none(pages, tmp_path):
    (result, first, _), before, figures = pages["tuning"], dict(mpl.rcParams), plt.get_fignums()
    with plt.style.context("dark_background"):
        again, _ = written(result, tmp_path)
    assert first == again
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == figures


@pytest.mark.parametrize("kind", ["tuning", "search"])
def test_a_page_loads_nothing_and_allows_no_script_but_its_own(kind, pages):
    _, text, page = pages[kind]
    assert len(page.ids) == len(set(page.ids)) > 0
    assert all(name.startswith("xmlns") or not value.startswith("http") for name, value in page.attributes if value)
    used = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert all(value.startswith(("#", "data:image/png")) for value in used)
    assert {value[1:] for value in used if value.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#(.*?)\)", text)) <= set(page.ids)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in text


@pytest.mark.parametrize("kind", ["tuning", "search"])
def test_what_looks_like_code_is_shown_as_text(kind, pages):
    _, text, page = pages[kind]
    assert page.tags.count("script") == 1
    assert SCRIPT not in text
    assert '<p class="about">Rates are about a &lt;script&gt;.</p>' in text
    assert f'{SCRIPT} with 3 parameters, "{SCRIPT}' in "".join(page.texts)


def test_a_caveat_is_escaped_and_stands_in_a_list_below_the_verdict():
    shown = verdict_html(f"Learning rate 0.1 <b>.\nSafe up to 1.\nCaveat: {SCRIPT}", "0.1")
    told, caveats = shown.split("<ul>")
    assert told == "<p>Learning rate <strong>0.1</strong> &lt;b&gt;.<br>Safe up to 1.</p>"
    assert caveats.startswith("<li>Caveat: &lt;/title&gt;")
    assert verdict_html("I cannot tell: flat.", "0.1") == "<p><strong>I cannot tell</strong>: flat.</p>"


def test_the_courses_of_a_search_are_told_with_their_ends(pages):
    *_, page = pages["search"]
    head, *rows = [[text for text, _ in row] for row in page.tables[0]]
    assert head == ["learning rate", "stream", "steps", "last loss", "held-out loss", "went on to"]
    assert [row for row in rows if row[1] == "0"] == [
        ["0.01", "0", "4", "1.2", "1.1", "final"],
        ["0.1", "0", "4", "0.7", "0.6", "final"],
        ["1", "0", "2", "2.5", "\N{EN DASH}", "scan"],
        ["10", "0", "2", "∞", "\N{EN DASH}", "given up in the scan"],
    ]
    assert [[text for text, _ in row] for row in page.tables[1]][1:3] == [["0.01", "1.1"], ["0.01", "1.1"]]
    assert "of each stream, the loss is lowest at 0.06, 0.06, after 4 steps." in "".join(page.texts)


def test_a_course_with_fewer_steps_than_the_others_was_given_up():
    trace = search().trace
    short = trace[~((trace["learning_rate"] == 1.0) & (trace["step"] == 1))]
    short = short[~((short["learning_rate"] == 0.01) & (short["step"] == 3))]
    shorter = short[short["step"] < 3].assign(stream=1)  # a stream whose finals a budget has cut
    (table,) = _table_of_courses(pd.concat([short, shorter]))
    ends = re.findall(r">((?:given up in the )?(?:scan|final))<", table)
    assert ends == ["given up in the final", "final", "final", "final", *["given up in the scan"] * 4]


def test_a_table_without_a_script_is_sorted_by_its_first_column_and_says_so(pages):
    *_, page = pages["tuning"]
    rates = [float(row[0][1]) for row in page.tables[0][1:]]
    assert rates == sorted(rates)
    assert [value for name, value in page.attributes if name == "aria-sort"] == ["ascending"]
    assert sum(name == "aria-label" for name, _ in page.attributes) >= 2


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("lr.pdf", ValueError, r"`path` must end in \.html or \.htm, got '.*lr\.pdf'\."),
        ("no/lr.html", FileNotFoundError, "`path` must lie in a folder that exists, got"),
    ],
)
def test_a_path_is_refused_before_anything_is_drawn(name, error, text, rng, tmp_path, monkeypatch):
    monkeypatch.setattr("autolr.report.picture", None)
    for result in (tuning(rng), search()):
        with pytest.raises(error, match=text):
            result.to_html(tmp_path / name)


def test_a_page_that_cannot_be_made_leaves_the_old_one(rng, tmp_path, monkeypatch):
    path = tmp_path / "lr.htm"
    path.write_text("old")
    monkeypatch.setattr("autolr.report.picture", None)
    for result in (tuning(rng), search()):
        with pytest.raises(TypeError):
            result.to_html(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("lr.htm", "old")]


def test_notebooks_show_every_verdict_with_its_pick_in_bold(rng):
    losses = pd.DataFrame({"cosine": [1.0, 1.1], "<b>": [2.0, 2.1]})
    compared = ScheduleComparison(pd.DataFrame(columns=HISTORY_COLUMNS), losses, {"epsilon": 1e-7})
    expansion = TaylorExpansion(1.0, -1.0, 4.0, np.array([0.1]), np.array([0.9]))
    shown = {"0.1": tuning(rng), "0.05": search().suggestion, "cosine:": compared, "0.25": expansion}
    for pick, result in shown.items():
        page = result._repr_html_()
        assert f"<strong>{pick}</strong>" in page
        assert "<script" not in page
        text = "".join(Page(f"<div>{page}</div>").texts)
        assert all(line in text for line in str(result).splitlines())


def test_a_verdict_without_a_rate_is_shown_too():
    nothing = TuningResult(LossDifferentials([0.1, 1.0], [1.0, 1.0], np.full((2, 2), np.inf)))
    assert nothing._repr_html_().startswith("<p><strong>I cannot tell</strong>: ")
    endless = TaylorExpansion(1.0, -1.0, -4.0, np.array([0.1]), np.array([0.9]))
    assert endless._repr_html_().startswith("<p><strong>I cannot tell</strong>: ")
    diverged = pd.DataFrame({"a": [np.inf, 1.0], "b": [np.inf, 1.0]})
    compared = ScheduleComparison(pd.DataFrame(columns=HISTORY_COLUMNS), diverged)
    assert compared._repr_html_().startswith("<p><strong>I cannot tell</strong>")


def test_attributes_and_cells_are_escaped():
    assert element("p", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;"></p>'
    table = sortable_table("<script>", [Column("<script>", [1.0, math.nan], ["<script>", "b"])])
    assert "<script>" not in table
