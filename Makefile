# The two commands of the README, and what developers need. Everything happens in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help reproduce quick test test-slow check docs format clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   set up, then the whole experiment on the embedded organism (results in revlens-out/)"
	@echo "make quick       set up, then a smoke run of the same, in a minute or two (revlens-quick/)"
	@echo "make test        set up, then the tests"
	@echo "make test-slow   the slow tests"
	@echo "make check       format check, lint and type check, as in CI"
	@echo "make docs        build the documentation in site/; any warning is an error"
	@echo "make format      format the code"
	@echo "make clean       remove .venv and outputs"

# torch comes first and by its exact version: asked for any other way, pip may bring gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found; install Python 3.11 or newer, or set PYTHON=/path/to/it" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old; revlens needs 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev --editable ".[images]"
	@touch $(STAMP)

reproduce: $(STAMP)
	$(BIN)/revlens reproduce --out revlens-out

quick: $(STAMP)
	$(BIN)/revlens reproduce --quick --out revlens-quick

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) revlens-out revlens-quick
