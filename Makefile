# make demo: install, train SimCLR, MoCo-v2 and CARE on both on real digits, probe them, print Table 1.
# make test: the test suite.   make test-long: what of it takes minutes each.
# make check: format, lint, types, which module may use which.
# make audit: known vulnerabilities of what the lock names, asked of PyPI (needs the network).
# make docs: the documentation, into site/.   make clean: forget it all.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first Python that fits, unless PYTHON is given.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-long check audit docs format install lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 to 3.13 found; install one (apt-get install python3 python3-venv) or give PYTHON=..." >&2; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) cannot make a virtual environment; apt-get install python3-venv" >&2; exit 3; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

# On a CPU two of these small jobs at once, a thread each, do more than one with two threads.
demo: install
	$(BIN)/carectl reproduce table1 --profile digits $$(command -v nvidia-smi >/dev/null || echo --devices cpu:2)

test: install
	$(BIN)/python -m pytest

test-long: install
	$(BIN)/python -m pytest -m long

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Apart from `dev`: what builds the site takes seconds to install, and no test needs it.
docs: $(VENV)/.documenting
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "docs: open site/index.html"

$(VENV)/.documenting: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
	@touch $@

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In an environment of its own, thrown away again. A package that could not be looked up fails it:
# what was not asked about is not known to be safe.
audit:
	@at=$$(mktemp -d) && trap 'rm -rf "$$at"' EXIT && $(PYTHON) -m venv $$at \
		&& $$at/bin/python -m pip install --quiet --disable-pip-version-check pip-audit \
		&& $$at/bin/pip-audit --strict --no-deps --disable-pip -r requirements.lock

# Names and versions only: no address of any index gets into the lock.
lock: install $(VENV)/.documenting
	$(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+==' > requirements.lock

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
