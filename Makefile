# Everything sets itself up in .venv: a fresh clone needs only Python 3.11 and make.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install demo test check bench clean
.DEFAULT_GOAL := help

help:           ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/ —/'

install: $(STAMP) ## the runner and its tools, pinned, into .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)  ## four quantizations of the embedded model on two sets of problems, compared
	$(BIN)/runner -cd experiments -cn quantization_grid output_dir=outputs/demo
	$(BIN)/runner-compare --output-dir outputs/demo --baseline quantization=none

test: $(STAMP)  ## all tests, the fast ones first
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile
	$(BIN)/pytest -m slow -n 2 --dist loadfile

check: $(STAMP) ## what CI runs: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

bench: $(STAMP) ## paired measurements; each prints its own command and spread
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/compare_null.py
	$(BIN)/python bench/compare_scale.py

clean:          ## remove .venv and caches, keep outputs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
