# `make run` starts the mail server, `make test` runs the tests; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test check format stress bench clean

help: ## show what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

run: $(VENV)/.runtime ## set up, then run the mail server in the foreground
	@$(BIN)/python -m config.serve

test: $(VENV)/.development ## set up, then run the tests
	$(BIN)/python -m pytest --cov $(PYTEST_ARGS)

check: $(VENV)/.development ## format and lint, types, examples in the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --no-header --doctest-modules --doctest-glob='*.md' \
		salmon_state README.md docs

format: $(VENV)/.development ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stress: $(VENV)/.development ## the long fault runs
	$(BIN)/python -m pytest -m stress -s $(PYTEST_ARGS)

bench: $(VENV)/.development ## the measurements
	$(BIN)/python -m benchmarks

clean: ## remove what the targets above made, but not what a server wrote to run/
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@
