# make demo: the whole pipeline on the built-in toy world, ending with an HTML report
# make test: lint, types and tests
# Each sets everything up first: a .venv beside this file, with the package and its tools.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Named after the content of its inputs: an unchanged pyproject.toml is never installed twice.
INSTALLED := $(VENV)/.installed-$(shell cksum < pyproject.toml | tr ' ' '-')

.PHONY: demo test lint types unit clean
.DEFAULT_GOAL := demo

demo: $(INSTALLED)
	$(BIN)/sseg demo
	@echo "(the command sseg is in $(BIN): source $(BIN)/activate puts it on the path)"

test: lint types unit
	@echo "make test: lint, types and tests passed"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest -q

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sseg needs Python 3.11 or newer; set it with: make PYTHON=python3.11")'
	@echo "Setting up $(VENV): the first time takes a few minutes (PyTorch is large) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
