# `make demo` and `make test` set everything up by themselves on a machine with
# python3 (3.11 or newer), make and a package index. The install is skipped when
# .venv is newer than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lint notebooks clean help

help:
	@echo "make demo       find absence seizures in the shipped EEG (one to two minutes)"
	@echo "make test       the test suite"
	@echo "make test-all   the test suite with the slow tests"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make notebooks  run the notebooks and keep their outputs"
	@echo "make clean      remove .venv and what was made"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, but '$(PYTHON)' is" \
		"$$($(PYTHON) --version). Try: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv: about 5 GB, some minutes, once."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/braindecode-biot demo

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(READY)
	$(BIN)/python tools/run_notebooks.py

clean:
	rm -rf .venv demo_output
