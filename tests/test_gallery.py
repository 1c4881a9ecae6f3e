"""The gallery: every picture has a script that draws it and a place that shows it; every link leads somewhere."""

import re
import runpy
from pathlib import Path

import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "assets"
PICTURES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.png"))
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *FOLDER.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)


def text_of(page):
    """Return a page without its blocks of code."""
    return re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)


def links_of(page):
    """Return what a page links to, or shows."""
    words = re.sub(r"`[^`]*`", "", text_of(page))
    return re.findall(r"\]\(([^)\s]+)\)", words) + re.findall(r'<img src="([^"]+)"', words)


def anchors_of(page):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_to_it_and_to_a_heading_in_it(page):
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target.relative_to(ROOT)), link


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_is_small_and_shown_in_the_gallery_with_the_command_that_draws_it(picture):
    assert (FOLDER / picture).stat().st_size < 200_000
    assert picture in links_of("assets/README.md")
    text = (FOLDER / "README.md").read_text()
    before = text[: text.index(f"({picture})")]
    command = re.findall(r"`python assets/(\S+?\.py)(?: (\S+))?`", before)[-1]
    assert command in {("draw.py", picture), ("draw_schedules.py", "")}


def test_every_picture_is_drawn_by_a_script():
    drawn = {*runpy.run_path(str(FOLDER / "draw.py"))["PICTURES"], "linear_regression.png"}
    drawn |= {f"schedules/{name}.png" for name in runpy.run_path(str(FOLDER / "draw_schedules.py"))["SCHEDULES"]}
    assert set(PICTURES) == drawn
    target = re.search(r"^assets:\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE).group(1)
    assert target.split() == ["python", "assets/draw.py", "python", "assets/draw_schedules.py"]


def test_a_picture_drawn_again_has_the_same_bytes(tmp_path):
    draw_small = runpy.run_path(str(FOLDER / "draw_schedules.py"))["draw_small"]
    for name in ("first.png", "second.png"):
        figure = Figure(figsize=(1.9, 1.15), layout="constrained")
        draw_small("cosine", figure)
        figure.savefig(tmp_path / name, dpi=160, metadata={"Software": None})
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
