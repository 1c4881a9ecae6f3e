"""The repository keeps its promises: two commands, a CI that runs one, bounds with reasons, a wheel that works."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import autolr

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
TOP = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "assets", "autolr", "benchmarks", "CHANGELOG.md", "CITATION.cff",
    "constraints.txt", "CONTRIBUTING.md", "LICENSE", "Makefile", "pyproject.toml", "README.md", "tests",
}  # fmt: skip


def shell_blocks():
    return re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)


def test_two_commands_of_one_line_do_all_the_set_up():
    demo, test = (block.strip() for block in shell_blocks() if "venv" in block)
    for line, extra, end in (
        (demo, '".[demo]"', ".venv/bin/autolr demo --plot demo.png"),
        (test, '-e ".[test]"', ".venv/bin/pytest"),
    ):
        assert line == f"python3 -m venv .venv && .venv/bin/pip install -c constraints.txt {extra} && {end}"


def test_ci_takes_the_test_line_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README.md", script).group(1)
    assert [line for line in README.splitlines() if re.search(pattern, line)] == [shell_blocks()[-1].strip()]
    assert 'bash -c "$line"' in script


def test_the_core_needs_six_packages_and_no_others():
    names = {re.match(r"[a-z]+", requirement).group() for requirement in PROJECT["dependencies"]}
    assert names == {"torch", "numpy", "pandas", "scipy", "tqdm", "matplotlib"}
    frameworks = {"lightning", "ignite", "transformers", "accelerate", "skorch"}
    assert set(PROJECT["optional-dependencies"]) == {"demo", *frameworks, "all", "test", "dev"}


def test_every_lower_bound_has_its_reason_beside_it():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    bounds = [line for line in lines if re.match(r'\s*"[a-z][a-z-]*>=', line) or line.startswith("requires")]
    assert len(bounds) >= 6
    assert [line for line in bounds if "  # " not in line] == []


def test_every_requirement_is_pinned_in_the_constraints():
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    extras = [requirement for group in PROJECT["optional-dependencies"].values() for requirement in group]
    for requirement in PROJECT["dependencies"] + extras:
        name = re.match(r"[A-Za-z0-9-]+", requirement).group()
        assert name in pins or name == "autolr"


def test_nothing_else_lies_at_the_top():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode or not tracked.stdout:
        pytest.skip("not a git checkout")
    assert {path.split("/")[0] for path in tracked.stdout.splitlines()} <= TOP


def test_the_conventions_are_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 150


def test_the_changelog_knows_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## Unreleased" in changelog or f"## {autolr.__version__}" in changelog


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)$", citation, flags=re.MULTILINE).group(1) == autolr.__version__
    assert re.search(r"^license: (\S+)$", citation, flags=re.MULTILINE).group(1) == PROJECT["license"]


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists()


@pytest.mark.slow
def test_the_wheel_works_when_installed_outside_of_the_checkout(tmp_path):
    pytest.importorskip("hatchling")
    for target in ("wheel", "sdist"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert len(list(tmp_path.glob("*.tar.gz"))) == 1
    names = zipfile.ZipFile(wheel).namelist()
    assert "autolr/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"autolr", f"autolr-{autolr.__version__}.dist-info"}

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True)
    code = """
import autolr, torch
assert autolr.__file__.startswith({site!r}), autolr.__file__
model = torch.nn.Linear(2, 1)
tuner = autolr.AutoLRTuner(model, torch.nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), rng=0)
result = tuner.tune(torch.randn(50, 2), torch.randn(50, 1), num_subsamples=20)
result.save("lr.json")
result.plot().figure.savefig("lr.png")
print(autolr.__version__, autolr.TuningResult.load("lr.json"))
"""
    environment = {"PYTHONPATH": str(site), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code.replace("{site!r}", repr(str(site)))],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(autolr.__version__)
    script = subprocess.run(
        [site / "bin" / "autolr", "--version"], env=environment, capture_output=True, text=True, check=True
    )
    assert script.stdout == f"autolr {autolr.__version__}\n"
