# Every target does its own set-up: the virtual environment is made when it is absent, brought up to date when
# pyproject.toml or constraints.txt is newer, made anew when it is broken, and reused otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q
PYTEST_ARGS ?=
MUTANTS_ARGS ?=

# Fails unless the environment belongs to this folder (it may have been moved) and holds its main parts.
define PROBE
import sys
from importlib.util import find_spec
from pathlib import Path

needed = "dscnet torch torchvision timm segmentation_models_pytorch lightning jsonargparse pytest mypy".split()
missing = [name for name in needed if find_spec(name) is None]
sys.exit(bool(missing) or Path.cwd() not in Path(find_spec("dscnet").origin).parents)
endef
export PROBE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test lint check mutants format clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: ## Make or update the virtual environment
	@if [ -e $(STAMP) ] && ! $(BIN)/python -c "$$PROBE" >/dev/null 2>&1; then \
		echo "$(VENV) is broken: making it anew"; rm -f $(STAMP); fi
	@$(MAKE) -s --no-print-directory $(STAMP)

# The stamp is written last: an environment without it is a partial one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, '$(PYTHON)' is not: try 'make PYTHON=python3.12 ...'" >&2; exit 1; }
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV) (the first time takes minutes: PyTorch is large)"
	@$(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	@touch $@

demo: setup ## The whole pipeline on generated scenes; ends with runs/demo/report.html
	$(BIN)/dscnet demo --out runs/demo --force

test: setup ## All tests and doctests (PYTEST_ARGS="-k name" for some)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

lint: setup ## Style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## What CI runs: lint and tests

mutants: setup ## Which one-line faults no test notices; hours (MUTANTS_ARGS="--sample 5 objective")
	@$(BIN)/python -c "import cosmic_ray" 2>/dev/null || $(PIP_INSTALL) -c constraints.txt -e ".[dev,mutants]"
	$(BIN)/python benchmarks/mutants.py $(MUTANTS_ARGS)

format: setup ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
