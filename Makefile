# `make run` starts the mail server, `make test` runs the tests; both set up what they need.
# `make run EXTRAS=redis` installs a driver as well; several: EXTRAS=redis,cli.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than there are processors: the tests wait a lot, for servers and for locks. Not many more:
# each collects all tests and starts servers of its own, which takes it eight seconds.
WORKERS ?= 4
PYTEST = pytest -n $(WORKERS) --dist loadgroup
RUNTIME := $(VENV)/.runtime$(if $(EXTRAS),-$(EXTRAS))
# What the server itself needs, and the others.
SERVER := receivers$(EXTRAS:%=,%)
# Environments of their own: what others need must not change what the tests run with.
PEERS := $(VENV)/benchmarks
PUBLISH := $(VENV)/publish

# The tests start hundreds of processes, each of which would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-quick coverage check format stress stores bench docs changelog release clean

help: ## show what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(RUNTIME) ## set up, then run the mail server in the foreground
	@$(BIN)/python -m config.serve

test: $(VENV)/.development ## set up, then run the tests
	$(BIN)/python -m $(PYTEST) $(PYTEST_ARGS)

test-quick: $(VENV)/.development ## those that need no server and no long time
	$(BIN)/python -m $(PYTEST) -q -r fE -m 'not stress and not slow' $(PYTEST_ARGS)

coverage: $(VENV)/.development ## all tests again, and fail if they leave too many lines out
	@rm -f .coverage*
	$(BIN)/coverage run -m $(PYTEST) $(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/.development ## format and lint, types, examples and links in the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --no-header --doctest-modules --doctest-glob='*.md' \
		--ignore docs/conf.py salmon_state README.md docs tests/site/test_links.py

format: $(VENV)/.development ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stress: $(VENV)/.development ## the long fault runs
	$(BIN)/python -m pytest -m stress -v $(PYTEST_ARGS)

stores: $(VENV)/.development ## write to docs/stores.md what the kit finds of each store
	$(BIN)/python -m $(PYTEST) -q -m '' -k 'not ForLong and not TimeToLive and not InARedisCluster and not AnIndex' \
		--salmon-state-summary=docs/stores.md tests/stores/test_kit.py \
		tests/stores/test_kit_faults.py \
		tests/examples/test_file_store.py::TestFileStorage \
		tests/examples/test_file_store.py::TestFaults $(PYTEST_ARGS)

bench: $(VENV)/.benchmarks ## the measurements, beside those of others; QUICK=1 for a short look
	$(PEERS)/bin/python -m benchmarks $(if $(QUICK),--quick) $(BENCH_ARGS)

docs: $(VENV)/.publish ## the site, in build/site/index.html
	$(PUBLISH)/bin/sphinx-build --builder html --fail-on-warning --keep-going --fresh-env --quiet \
		docs build/site

changelog: $(VENV)/.publish ## join what is in changes/ under the next version in CHANGELOG.md
	$(PUBLISH)/bin/towncrier build --yes

release: $(VENV)/.development $(VENV)/.publish ## wheel and sdist in dist/, tried on each Python that is here, and the notes
	$(BIN)/python -m release $(foreach python,$(PYTHONS),--python $(python))
	$(PUBLISH)/bin/twine check --strict dist/*.whl dist/*.tar.gz

clean: ## remove what the targets above made, but not what a server wrote to run/
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@echo 'making an environment of its own in $(VENV) ...'
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): $(VENV)/bin/python pyproject.toml
	@echo 'installing salmon-state[$(SERVER)] and what it needs into $(VENV), once ...'
	$(BIN)/python -m pip install --quiet --editable '.[$(SERVER)]'
	@touch $@

$(VENV)/.development: $(RUNTIME) requirements-dev.txt
	@echo 'installing what the tests and checks need, once ...'
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(VENV)/.benchmarks: $(VENV)/bin/python pyproject.toml requirements-bench.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --editable . --requirement requirements-bench.txt
	@touch $@

$(VENV)/.publish: $(VENV)/bin/python pyproject.toml requirements-publish.txt
	$(PYTHON) -m venv $(PUBLISH)
	$(PUBLISH)/bin/python -m pip install --quiet --editable '.[postgresql,mysql,redis,receivers,cli,testing]' \
		--requirement requirements-publish.txt
	@touch $@
