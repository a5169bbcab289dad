# `make demo` and `make test` do all the set-up: they need Python 3.11 or later and make, and nothing else.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Without a cache each worker compiles all tests again, which is half of the time of collecting them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow bench soak check format clean

demo: $(READY)
	@$(BIN)/thea-db demo $(if $(FILE),"$(FILE)")

test: $(READY)
	@$(BIN)/python -m pytest -n auto $(ARGS)

# The second tier: random walks, large data, failovers, many processes. `make test ARGS=--slow` runs both.
test-slow: $(READY)
	@$(BIN)/python -m pytest -n auto -m slow $(ARGS)

# About 25 minutes, results in .cache/benchmarks. ARGS: --quick, --publish (to docs/benchmarks), or a part of it in a
# minute: '--quick --only append --with store --with asyncpg'; `make bench ARGS=--help` lists all options.
bench: $(VENV)/.bench
	@$(BIN)/python -m benchmarks $(ARGS)

# ARGS: --minutes 3, --report FILE; it writes docs/soak.md.
soak: $(READY)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_secrets.py

# Formatted first: a generated migration has long lines, which the linter would refuse before they are wrapped.
format: $(READY)
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) .cache build dist

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or later with venv and ensurepip (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

$(VENV)/.bench: $(READY)
	@echo "Installing what it is compared with into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@
