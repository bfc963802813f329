# `make demo` and `make test` need Python 3.11 or later and nothing else; the environment goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint setup clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "biprop needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	@echo "installing into .venv (PyTorch is large: this can take minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/biprop find

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist
