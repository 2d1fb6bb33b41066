# The README's two commands are `make demo` and `make test`; both set the environment up themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2
# Static checkers need the packages under one folder; the editable install maps them one by one.
LAYOUT := $(abspath $(VENV)/layout)

.PHONY: help setup demo test lint types unit notebooks test-slow bench bench-gpu bench-quality clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/'

setup: $(STAMP)  ## make .venv and install skysom with its development tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"skysom needs Python 3.11 or newer, found {v[0]}.{v[1]}; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@mkdir -p $(LAYOUT)/skysom
	@ln -sfn $(abspath engine) $(abspath storage) $(abspath cluster) $(abspath jobs) $(LAYOUT)/skysom/
	@touch $@

demo: setup  ## simulate a small radio survey, run the main job on it, say where the report lies
	$(BIN)/skysom demo demo

test: lint types unit notebooks  ## everything that CI runs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=$(LAYOUT) $(BIN)/lint-imports --no-cache

types: setup
	MYPYPATH=$(LAYOUT) $(BIN)/mypy -p skysom.engine -p skysom.storage -p skysom.cluster -p skysom.jobs

unit: setup  # a file of tests stays in one process: what a file prepares is prepared once
	$(BIN)/pytest -m 'not slow' --numprocesses $(TEST_WORKERS) --dist loadfile

notebooks: setup
	$(BIN)/python tests/run_notebooks.py

test-slow: setup  ## long trials: many kills, large inputs
	$(BIN)/pytest -m slow

bench: setup  ## ratios to the floors, every method, feature maps, the pass, reading at scale (20 GB of disk), scaling; an hour
	$(BIN)/python tests/benchmarks/bench_search.py
	$(BIN)/python tests/benchmarks/bench_methods.py
	$(BIN)/python tests/benchmarks/bench_features.py
	$(BIN)/python tests/benchmarks/bench_scale.py
	$(BIN)/python tests/benchmarks/bench_reading.py
	$(BIN)/python tests/benchmarks/bench_collate.py
	$(BIN)/python tests/benchmarks/bench_join.py
	$(BIN)/python tests/benchmarks/simulate_scaling.py --quick

bench-gpu: setup  ## the search on a GPU against its ceilings; says why where there is none
	$(BIN)/python tests/benchmarks/bench_gpu.py

bench-quality: setup  ## how good a map batches of every size make; how certified search does on real surveys
	$(BIN)/python tests/benchmarks/batch_quality.py
	$(BIN)/python tests/benchmarks/certified_quality.py
	$(BIN)/python tests/benchmarks/collation_truth.py

clean:  ## remove the environment and the demo
	rm -rf $(VENV) demo
