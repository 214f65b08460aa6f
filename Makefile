# `make run` starts the mail server, `make test` runs the tests; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than there are processors: the tests wait a lot, for servers and for locks.
WORKERS ?= 4
PYTEST = pytest -n $(WORKERS) --dist loadgroup
# An environment of their own: what others need must not change what the tests run with.
PEERS := $(VENV)/benchmarks

# The tests start hundreds of processes, each of which would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-quick coverage check format stress bench clean

help: ## show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(VENV)/.runtime ## set up, then run the mail server in the foreground
	@$(BIN)/python -m config.serve

test: $(VENV)/.development ## set up, then run the tests
	$(BIN)/python -m $(PYTEST) $(PYTEST_ARGS)

test-quick: WORKERS = 2 # each has to collect all tests first
test-quick: $(VENV)/.development ## those that need no server and no long time
	$(BIN)/python -m $(PYTEST) -q -r fE -m 'not stress and not slow' $(PYTEST_ARGS)

coverage: $(VENV)/.development ## all tests again, and fail if they leave too many lines out
	@rm -f .coverage*
	$(BIN)/coverage run -m $(PYTEST) $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

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
	$(BIN)/python -m pytest -m stress -v $(PYTEST_ARGS)

bench: $(VENV)/.benchmarks ## the measurements, beside those of others; QUICK=1 for a short look
	$(PEERS)/bin/python -m benchmarks $(if $(QUICK),--quick) $(BENCH_ARGS)

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

$(VENV)/.benchmarks: $(VENV)/bin/python pyproject.toml requirements-bench.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --editable . --requirement requirements-bench.txt
	@touch $@
