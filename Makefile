PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.PHONY: help env quickstart demo test test-fast test-all coverage mutants lint format docs up down lock audit clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

env: $(STAMP)  ## make .venv from the lock, Java included, if it is missing or out of date

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 not found: install it, or name it with make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==0.13.9
	UV_HTTP_TIMEOUT=180 $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m spark_jobs.java
	rm -f $(VENV)/.installed-*
	touch $@

quickstart: env  ## train two simulated days in one process, without Airflow, and print what each part did
	$(BIN)/elastic-ctr quickstart

demo: env  ## all of it in Airflow: three days, compression, selection, online learning, lift (KEEP=1 leaves the UIs running)
	$(BIN)/elastic-ctr demo $(if $(KEEP),--keep)

lint: env  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check_prose.py

format: env  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: env  ## build the documentation into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# As many processes as there are cores, at most 4. A file's tests stay together: they share fixtures.
PYTEST := -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: env  ## the unit tests: no Spark, no Airflow, no process of their own
	$(BIN)/python $(PYTEST) -m "not (benchmark or sweep or slow or process or spark or airflow)" $(PYTEST_ARGS)

test: lint docs  ## lint, and every test that protects a promise
	$(BIN)/python $(PYTEST) -m "not (benchmark or sweep)" $(PYTEST_ARGS)

test-all: lint  ## the same, the sweeps over parameters, and every benchmark as a quick run
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

coverage: env  ## what `make test` runs, with the lines of product code that it reaches, processes included
	rm -f .coverage .coverage.*
	$(BIN)/coverage run $(PYTEST) -m "not (benchmark or sweep)" $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

mutants: env  ## put faults into the core on purpose, and print how many the tests notice (SAMPLE=20 SEED=1)
	$(BIN)/python tests/mutants.py --sample $(or $(SAMPLE),20) --seed $(or $(SEED),1)

up: env  ## start Airflow, MLflow and a Spark server on free loopback ports and leave them running
	$(BIN)/elastic-ctr up

down:  ## stop what `make up` started
	$(BIN)/elastic-ctr down

lock:  ## resolve pyproject.toml anew into requirements.lock (names, versions, hashes)
	$(BIN)/uv pip compile pyproject.toml --extra pipeline --group dev --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock

audit: env  ## bill of materials (build/sbom.json) and known vulnerabilities; needs a network
	mkdir -p build
	$(BIN)/uv tool run --from cyclonedx-bom==7.1.0 cyclonedx-py requirements requirements.lock -o build/sbom.json
	$(BIN)/uv tool run pip-audit==2.9.0 --requirement requirements.lock --require-hashes --disable-pip --strict

clean:  ## remove the environment and everything that demo, up and the tests made
	rm -rf $(VENV) .run workspace workspace-quickstart
