# Two commands: `make demo` and `make test`. Each works alone, from a fresh clone, with only python3 (3.11+) and make.
# Every path is relative, so the checkout may live on a path with spaces in it.

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
CLI_STAMP := $(VENV)/.installed-cli
DEV_STAMP := $(VENV)/.installed-dev
# The dev set contains the cli set, so once it is there `make demo` needs no second install.
DEMO_STAMP := $(if $(wildcard $(DEV_STAMP)),$(DEV_STAMP),$(CLI_STAMP))

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint types pytest bench bench-data docs pages clean

help:
	@echo 'make demo    train five methods on the embedded data, print a table, write an HTML report'
	@echo 'make test    lint, types and the whole test suite'
	@echo 'make lint | types | pytest    one part of it (PYTEST_ARGS="-k name -n 0" narrows the last)'
	@echo 'make bench   cost of each method in joint steps, scaling, start-up, long runs'
	@echo 'make bench-data   samples per second and memory of prepared data against decoding (about 5 GB of disk)'
	@echo 'make docs    run the examples of README.md and docs/'
	@echo 'make pages   write the pages and lists that follow from the code: methods, features, datasets, reference'
	@echo 'make clean   remove the environment and everything made by these commands'

demo: $(DEMO_STAMP)
	$(BIN)/equimodal demo

test: lint types pytest

lint: $(DEV_STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: $(DEV_STAMP)
	$(BIN)/python -m mypy

pytest: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/load.py

bench-data: $(DEV_STAMP)
	$(BIN)/python benchmarks/loader.py

docs: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 0 tests/test_documentation.py

# In this order: the names of the methods stand in the package before the reference is made from it.
PAGES := method_lists method_pages feature_matrix dataset_pages

pages: $(DEV_STAMP)
	@for page in $(PAGES); do PYTHONPATH=src $(BIN)/python tools/$$page.py || exit 1; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last: an interrupted install is taken up again.
define install
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "equimodal needs Python 3.11 or newer, found $$("$(PYTHON)" --version 2>&1). Next: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(1)]"
	@touch $@
endef

$(CLI_STAMP): $(INPUTS)
	$(call install,cli)

$(DEV_STAMP): $(INPUTS)
	$(call install,dev)
