# Run in an environment with the extra "dev": pip install -c constraints.txt -e ".[dev]"
.PHONY: check test bench assets

check:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest

bench:
	python benchmarks/speed.py --quick

assets:
	python assets/draw.py
	python assets/draw_schedules.py
