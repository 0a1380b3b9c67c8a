# One command for everything that a contributor needs. `make check` is what a change must pass.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-slow test-lowest lint format docs check

$(BIN)/paramarket: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install -e '.[test,dev,docs]'

run: $(BIN)/paramarket       ## the paper's comparison on the digits
	$(BIN)/paramarket run

test: $(BIN)/paramarket      ## the default tests
	$(BIN)/pytest

test-slow: $(BIN)/paramarket ## the tests that take minutes
	$(BIN)/pytest -m slow

test-lowest: $(BIN)/paramarket ## the default tests with the oldest versions that pyproject.toml allows
	$(BIN)/pip install -q uv
	$(BIN)/uv venv --clear .venv-lowest
	$(BIN)/uv pip install --python .venv-lowest --resolution lowest-direct -e '.[test]'
	.venv-lowest/bin/pytest -W ignore::DeprecationWarning  # of old packages that meet newer ones

lint: $(BIN)/paramarket      ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(BIN)/paramarket    ## mend the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(BIN)/paramarket      ## the documentation site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint test             ## everything
