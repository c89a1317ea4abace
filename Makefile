# On a machine with Python 3.11+ and make: `make demo` runs the main job, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COUNT ?= 500
WORKERS ?= 2

.PHONY: demo test numeric lint types check clean

demo: $(VENV)/.base
	$(BIN)/harope-bench reproduce table2 --scale micro --count $(COUNT) --out runs/table2
	$(BIN)/harope-bench table 2 --runs runs/table2 --show both
	@echo "Open runs/table2/report.html in a browser."

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q

# What computes, again; .ci/run sets other code paths of the libraries.
numeric: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q -m 'numeric and not simulation and not scale and not kills and not weights and not gpu'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/words

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, found %s; make PYTHON=python3.11 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	@echo "Installing (about two minutes, 6 GB with torch) ..."
	$(BIN)/pip install -q --disable-pip-version-check -e '.[torch]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	@echo "Installing (about two minutes, 6 GB with torch) ..."
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev,mmdet,parity,ray,t2i]'
	@touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
