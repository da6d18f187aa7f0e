# `make demo` and `make test` are what most people need. Each works alone, from a fresh clone, with only python3 (3.11+) and make.
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
	@echo 'make demo    train methods and controls on the embedded data, print a table and a verdict, write an HTML report'
	@echo 'make test    lint, types, the whole test suite, and which lines of methods/, functional/ and engine/ it ran'
	@echo 'make lint | types | pytest    one part of it (PYTEST_ARGS="-k name -n 0" narrows the last)'
	@echo 'make test-faults   twenty times as many hostile inputs of each kind as make test tries'
	@echo 'make test-core     the tests that need no extra, with torch and NumPy only'
	@echo 'make test-lowest   the whole test suite with the lowest declared version of every dependency'
	@echo 'make bench   cost of each method in joint steps, scaling, start-up, long runs'
	@echo 'make bench-data   samples per second and memory of prepared data against decoding (about 5 GB of disk)'
	@echo 'make device  on a machine with an accelerator: its benchmark and its tests, into build/device'
	@echo 'make docs    run the examples of README.md and docs/'
	@echo 'make docs-site   build the documentation site from mkdocs.yml; open site/index.html'
	@echo 'make pages   write the pages and lists that follow from the code: methods, features, datasets, reference'
	@echo 'make clean   remove the environment and everything made by these commands'

demo: $(DEMO_STAMP)
	$(BIN)/equimodal demo

test: lint types coverage

lint: $(DEV_STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

types: $(DEV_STAMP)
	$(BIN)/python -m mypy

pytest: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# sys.monitoring, from Python 3.12 on, measures at next to no cost.
.PHONY: coverage
coverage: $(DEV_STAMP)
	COVERAGE_CORE=$$($(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")') \
	  $(BIN)/python -m pytest --cov --cov-report= $(PYTEST_ARGS)
	$(BIN)/python tools/coverage_of_rooms.py

# Tests that need torch, NumPy and pytest alone; a test among them that needs more skips itself (pytest.importorskip).
CORE_VENV := .venv-core
CORE_TESTS := tests/functional tests/tasks tests/fusion tests/unimodal tests/methods tests/features tests/diagnostics \
  tests/test_batch.py tests/test_engine.py tests/test_every_task.py tests/test_features.py tests/test_formulas.py \
  tests/test_inference.py tests/test_layout.py tests/test_model.py tests/test_operators.py tests/test_package.py \
  tests/test_registry_properties.py tests/test_sharpness.py tests/test_testing.py \
  src/equimodal/functional src/equimodal/tasks src/equimodal/fusion src/equimodal/unimodal src/equimodal/engine \
  src/equimodal/projection src/equimodal/methods src/equimodal/batch.py src/equimodal/features.py \
  src/equimodal/inference src/equimodal/testing src/equimodal/model.py

# whole files that need the Trainer
CORE_IGNORED := $(addprefix --ignore=tests/features/,test_resume.py test_plan.py test_probe_run.py)

.PHONY: test-core
test-core: $(CORE_VENV)/.installed
	$(CORE_VENV)/bin/python -m pytest --doctest-ignore-import-errors $(CORE_IGNORED) $(PYTEST_ARGS) $(CORE_TESTS)

# The oldest supported Python, if it is here. On Linux, torch's ordinary build brings several GB of CUDA packages, so the
# CPU build is asked for by its name: where no index has it, the install stops at once.
LOWEST_VENV := .venv-lowest
LOWEST_PYTHON = $(if $(filter file,$(origin PYTHON)),$(or $(shell command -v python3.11),$(PYTHON)),$(PYTHON))
TORCH ?= $(shell sed -n 's/^torch==//p' constraints-lowest.txt)$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),+cpu)

.PHONY: test-lowest
test-lowest: $(LOWEST_VENV)/.installed
	$(LOWEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

# The families of hostile inputs with twenty times as many of each.
.PHONY: test-faults
test-faults: $(DEV_STAMP)
	EQUIMODAL_FAULTS=20 $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

bench: $(DEV_STAMP)
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/recipe_steps.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/studies.py

bench-data: $(DEV_STAMP)
	$(BIN)/python benchmarks/loader.py

# A machine without the network takes the script as it is: PYTHON=python3 sh scripts/device.sh FOLDER
.PHONY: device
device: $(DEV_STAMP)
	PYTHON=$(BIN)/python sh scripts/device.sh

docs: $(DEV_STAMP)
	$(BIN)/python -m pytest -n 0 tests/test_documentation.py

# Strict: a link that leads nowhere, and whatever else the builder warns of, is an error.
.PHONY: docs-site
docs-site: $(DEV_STAMP)
	PYTHONPATH=src $(BIN)/python tools/site_pages.py
	$(BIN)/zensical build --clean --strict

# In this order: the names of the methods stand in the package before the reference is made from it.
PAGES := method_lists method_pages feature_matrix dataset_pages audit_page check_pages site_lists

pages: $(DEV_STAMP)
	@for page in $(PAGES); do PYTHONPATH=src $(BIN)/python tools/$$page.py || exit 1; done

clean:
	rm -rf $(VENV) $(CORE_VENV) $(LOWEST_VENV) .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* .cache build dist site
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

$(CORE_VENV)/.installed: $(INPUTS)
	"$(PYTHON)" -m venv $(CORE_VENV)
	$(CORE_VENV)/bin/python -m pip install --quiet -c constraints.txt -e . pytest pytest-xdist
	@touch $@

$(LOWEST_VENV)/.installed: pyproject.toml constraints-lowest.txt
	"$(LOWEST_PYTHON)" -m venv $(LOWEST_VENV)
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-lowest.txt > $(LOWEST_VENV)/constraints.txt
	$(LOWEST_VENV)/bin/python -m pip install --quiet -c $(LOWEST_VENV)/constraints.txt torch || \
	  { echo 'No build torch==$(TORCH) is at hand. Next: set PIP_EXTRA_INDEX_URL to the CPU index of PyTorch, or name another: make test-lowest TORCH=2.13.0+cpu' >&2; exit 1; }
	$(LOWEST_VENV)/bin/python -m pip install --quiet -c $(LOWEST_VENV)/constraints.txt -e ".[all,test]"
	@touch $@
