# Everything is made in .venv from the locked versions in requirements/; nothing outside it is
# touched, except that `make test` as root installs Debian packages that are missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --extra web $(ARGS) \
	pyproject.toml
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-fast coverage bench bench-fleet abuse lint format typecheck dashboards dashboards-check metrics metrics-check rules rules-check deb lock packages clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=$(PYTHON) (3.11 or newer), ARGS= (passed on)"

run: $(VENV)/.runtime ## start the daemon in the foreground
	$(BIN)/sockwatch run $(ARGS)

test: packages ## check style and types, then run every test this machine allows
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest $(ARGS)

test-fast: $(VENV)/.dev ## run the unit tests only
	$(BIN)/pytest tests/unit $(ARGS)

coverage: $(VENV)/.dev ## run the unit tests and show what they do not reach
	$(BIN)/coverage run -m pytest tests/unit $(ARGS)
	$(BIN)/coverage report

bench: packages ## measure passes beside the kernel's own dump and other tools, into docs/benchmark; as root
	$(BIN)/python tests/bench/bench.py --write $(ARGS)

abuse: packages ## measure what abusive clients cost others, into docs/abuse.md; takes six minutes
	$(BIN)/pytest tests/service/test_abuse.py --abuse-table=docs/abuse.md $(ARGS)

bench-fleet: packages ## measure one Prometheus with a thousand hosts; takes six minutes
	$(BIN)/python tests/bench/fleet.py $(ARGS)

lint: $(VENV)/.dev ## check style
	$(BIN)/ruff check $(ARGS)
	$(BIN)/ruff format --check

format: $(VENV)/.dev ## mend style
	$(BIN)/ruff check --fix-only $(ARGS)
	$(BIN)/ruff format

typecheck: $(VENV)/.dev ## check types
	$(BIN)/mypy $(ARGS)

dashboards: $(VENV)/.dev ## write grafana/dashboards from the generator
	$(BIN)/python grafana/build.py

dashboards-check: $(VENV)/.dev ## fail if the dashboards there are not what the generator writes
	$(BIN)/python grafana/build.py --check

metrics: $(VENV)/.dev ## write docs/metrics.md from the program, its alerts and its dashboard
	$(BIN)/python docs/build.py

metrics-check: $(VENV)/.dev ## fail if docs/metrics.md is not what the generator writes
	$(BIN)/python docs/build.py --check

rules: $(VENV)/.dev ## write the PrometheusRule for Kubernetes from the rules for Prometheus
	$(BIN)/python deploy/kubernetes/build.py

rules-check: $(VENV)/.dev ## fail if the PrometheusRule there is not what the generator writes
	$(BIN)/python deploy/kubernetes/build.py --check

deb: $(VENV)/.dev ## build dist/sockwatch_*.deb for Debian 12
	tools/make-deb $(BIN)/python dist

lock: $(VENV)/.dev ## resolve requirements/ anew; ARGS=--upgrade takes the newest versions
	$(LOCK) --group dev --output-file requirements/dev.txt
	$(LOCK) --group build --constraint requirements/dev.txt --output-file requirements/runtime.txt

# After the environment, because that may itself have to install one.
packages: $(VENV)/.dev
	@tools/install-debian-packages tools/debian-packages.txt

clean: ## remove everything that was made
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	tools/make-venv $(PYTHON) $(VENV)

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml $(BIN)/python
	$(PIP) install --quiet --require-hashes --requirement $<
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(PIP) install --quiet --require-hashes --requirement $<
	@touch $@
