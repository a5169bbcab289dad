# Each target sets up what it needs in .venv. Only Python 3.11 or later and make must be installed.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FRAMEWORKS := .cache/frameworks
EXTRAS := aiogram,fastapi,google-adk,langchain,langgraph,litestar,openai-agents,pydantic-ai

# Without a bytecode cache each pytest worker compiles all tests again: half of the time of the collection.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-frameworks bench soak check format house clean

demo: $(READY)
	@$(BIN)/thea-db demo $(if $(FILE),"$(FILE)")

test: $(READY)
	@$(BIN)/python -m pytest -n auto $(ARGS)

# The second tier: random walks, large data, failovers, many processes. `make test ARGS=--slow` runs both.
test-slow: $(READY)
	@$(BIN)/python -m pytest -n auto -m slow $(ARGS)

# In an environment of its own: the libraries of web frameworks, bots and agent SDKs are not installed for the other targets.
test-frameworks: $(FRAMEWORKS)/.ready
	@$(FRAMEWORKS)/bin/mypy --cache-dir .cache/mypy-frameworks $$(find src/database/integrations tests/frameworks examples -name '*.py' -not -path 'examples/assistant/*')
	@$(FRAMEWORKS)/bin/python -m pytest -n auto --slow tests/frameworks $(ARGS)

# Takes 25 minutes and writes to .cache/benchmarks. ARGS=--publish writes to docs/benchmarks, ARGS=--quick takes
# 5 minutes, ARGS='--quick --only append --with store --with asyncpg' one minute; ARGS=--help lists all options.
bench: $(VENV)/.bench $(FRAMEWORKS)/.ready
	@$(BIN)/python -m benchmarks $(ARGS)

# Writes docs/soak.md. ARGS: --minutes 3, --report FILE.
soak: $(READY)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_secrets.py

# Formats first: the linter would reject the long lines of a generated migration before the formatter wraps them.
format: $(READY)
	@$(BIN)/python -m scripts.aliases
	@$(BIN)/python -m scripts.attributes
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .
	$(BIN)/ruff check .

# Draws the picture of the packages in CONTRIBUTING.md, from the import contracts of pyproject.toml.
house: $(READY)
	@$(BIN)/python -m scripts.house

clean:
	rm -rf $(VENV) .cache build dist

define install
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or later with venv and ensurepip (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(1) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
	@touch $@
endef

$(READY): pyproject.toml
	$(call install,$(VENV),--editable . --group dev)

$(FRAMEWORKS)/.ready: pyproject.toml
	$(call install,$(FRAMEWORKS),--editable '.[$(EXTRAS)]' --group frameworks)

$(VENV)/.bench: $(READY)
	@echo "Installing the libraries of the comparison into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@
