"""The report in a real browser: it asks for nothing, complains of nothing, can be sorted, and read on a phone."""

import numpy as np
import pytest
from browser import CHROMIUM, browser
from report_cases import NAMES, search, tuning

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (of Debian: apt-get install chromium)"),
]

# of each visible piece of text: the ratio of the luminances of its colour and of what is behind it (WCAG 2.1)
CONTRASTS = """
(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    while (element.parentElement && getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)")
      element = element.parentElement;
    return light(getComputedStyle(element).backgroundColor);
  };
  return Array.from(document.querySelectorAll("h1, h2, p, li, th, td, strong, summary, figcaption, footer"))
    .map((element) => {
      const both = [light(getComputedStyle(element).color), behind(element)].sort((a, b) => b - a);
      return (both[0] + 0.05) / (both[1] + 0.05);
    });
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    made = {"tuning": tuning(np.random.default_rng(0), **NAMES), "search": search(num_streams=2, **NAMES)}
    for kind, result in made.items():
        result.to_html(folder / f"{kind}.html")
    return {kind: folder / f"{kind}.html" for kind in made}


def column(tab, number):
    """Return the numbers of a column in the order in which its rows stand."""
    cells = f"row => row.cells[{number}].dataset.value"
    return [float(value) for value in tab.run(f"Array.from(document.querySelector('tbody').rows, {cells})")]


@pytest.mark.parametrize("kind", ["tuning", "search"])
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)], ids=["phone", "desk, dark"])
def test_a_page_asks_for_nothing_fits_and_can_be_read(tab, pages, kind, width, dark):
    tab.open(pages[kind], width=width, dark=dark)
    assert tab.complaints() == []
    assert tab.requests() == [pages[kind].as_uri()]
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.title").endswith(" \N{EN DASH} autolr")
    assert min(tab.run(CONTRASTS)) >= 4.5
    tab.run("document.querySelector('details').open = true")
    assert tab.run("document.documentElement.scrollWidth") == width


def test_a_page_fits_on_paper(tab, pages):
    tab.open(pages["tuning"], width=718)  # A4 without its margins
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.run("document.documentElement.scrollWidth") == 718
    assert tab.run("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    tab.call("Emulation.setEmulatedMedia", media="")


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(tab, pages):
    tab.open(pages["tuning"])
    rates, means = column(tab, 0), column(tab, 2)
    assert rates == sorted(rates)
    assert means != sorted(means)
    tab.run("document.querySelectorAll('thead th')[2].querySelector('button').click()")
    assert column(tab, 2) == sorted(means)
    assert tab.run("Array.from(document.querySelectorAll('[aria-sort]'), h => h.textContent)") == ["mean dL"]
    tab.run("document.querySelectorAll('thead button')[2].focus()")
    tab.press("Enter", 13)
    assert column(tab, 2) == sorted(means, reverse=True)
    assert tab.run("document.querySelector('[aria-sort]').ariaSort") == "descending"


def test_what_is_not_known_comes_last_in_both_orders(tab, pages):
    tab.open(pages["search"])
    held_out = column(tab, 4)
    known = sorted(value for value in held_out if not np.isnan(value))
    assert 0 < len(known) < len(held_out)
    for expected in (known, known[::-1]):
        tab.run("document.querySelectorAll('thead button')[4].click()")
        assert column(tab, 4)[: len(known)] == expected
        assert np.isnan(column(tab, 4)[len(known) :]).all()


def test_what_can_be_scrolled_can_be_reached_by_the_keyboard(tab, pages):
    tab.open(pages["tuning"], width=360)
    assert tab.run("document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth")
    boxes = "Array.from(document.querySelectorAll('.scroll'))"
    assert tab.run(f"{boxes}.every(box => box.tabIndex === 0 && box.ariaLabel)")


def test_a_script_that_came_into_a_page_would_not_run(tab, pages, tmp_path):
    path = tmp_path / "changed.html"
    changed = pages["tuning"].read_text("utf-8").replace("</body>", "<script>document.title = 'run'</script></body>")
    path.write_text(changed, "utf-8")
    tab.open(path)
    assert tab.run("document.title") != "run"
    assert "Content Security Policy" in str(tab.complaints())
