# Two commands to know: make run, make test.
# Debian's own interpreter is built with more optimisation than most others: it is taken where it is.
PYTHON ?= $(shell for p in /usr/bin/python3.11 python3.11 python3; do \
  $$p -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
DEBIAN := redis-server postgresql nginx wrk

.PHONY: run test chart-test image-test check lint types format bench bench-pii lock docs clean

run: $(VENV)/.run
	@exec $(BIN)/llm-sidecar serve --config config.yaml

test: $(VENV)/.test debian
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup tests

# The Helm chart, rendered by the real helm (built from its Go module the first time: minutes) and validated.
chart-test: $(VENV)/.test
	$(BIN)/python -m pip install -q --disable-pip-version-check kubernetes-validate==1.37.0
	$(BIN)/python -m pytest -q tests/chart/chart_checks.py

# The Dockerfile's steps without an engine: every locked package is installed once more.
image-test: $(VENV)/.run
	$(BIN)/python tests/image/replay.py --python "$(PYTHON)"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

check: test lint types

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test debian
	$(BIN)/python tests/bench/run.py

bench-pii: $(VENV)/.test
	$(BIN)/python tests/bench/pii_score.py

docs: $(VENV)/.test
	$(BIN)/python docs/generate.py

# The lock files pin every package with hashes: requirements.lock for the image and `make run`, -dev for tests.
# Made with the oldest Python that is supported (Debian's 3.11.2), since some packages need more there than later.
lock: $(VENV)/bin/python
	$(BIN)/python -m pip install -q pip-tools
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --allow-unsafe \
	  --extra redis --extra postgres --extra jwt --build-deps-for wheel --build-deps-for editable \
	  -o requirements.lock pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --allow-unsafe \
	  --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "needs Python 3.11 or newer with venv: apt-get install python3 python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.test: requirements-dev.lock $(VENV)/.run
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Servers that tests start for themselves. Installed where apt is; elsewhere they have to be there.
debian:
	@missing=""; for package in $(DEBIAN); do \
	  dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing$$missing"; \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -q >/dev/null && \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -q --no-install-recommends $$missing >/dev/null || \
	  { echo "the tests need these Debian packages:$$missing" >&2; exit 1; }; \
	fi

clean:
	rm -rf $(VENV) build dist *.egg-info
