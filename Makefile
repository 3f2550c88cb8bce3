# Everything a contributor types. Needs Python 3.11 or newer with venv, and make; the rest is set up on first use:
# a virtual environment in .venv with mqcore installed from this folder, renewed when pyproject.toml changes.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cksum < pyproject.toml | tr ' ' '-')
ARGUMENTS ?=

.PHONY: help setup demo test lint check bench wheel wheel-test docs matrix clean

help:
	@echo "make demo        a broker, real text through it, SIGKILL in the middle, and proof that nothing acknowledged is lost"
	@echo "make test        every test that this machine can run without root (about 40 minutes; see CONTRIBUTING.md)"
	@echo "make lint        ruff, mypy (strict) and pyright"
	@echo "make bench       the benchmarks beside their limits; ARGUMENTS='publish-async --seconds 10'"
	@echo "make wheel-test  build the wheel and run the quick tests against it in an empty environment"
	@echo "make docs        write the generated pages anew: reference, keys, clauses"
	@echo "make matrix      run the conformance suite on everything and write docs/conformance-matrix.md"
	@echo "make clean       remove .venv and everything built"

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/mqcore demo $(ARGUMENTS)

test: $(STAMP)
	@$(BIN)/pytest $(ARGUMENTS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pyright --warnings

check: lint test wheel-test

bench: $(STAMP)
	@$(BIN)/mqcore bench $(if $(ARGUMENTS),run $(ARGUMENTS),list)

wheel: $(STAMP)
	@rm -rf dist
	@$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	@ls dist/*.whl

wheel-test: wheel
	@$(BIN)/python tests/wheel/run.py dist/*.whl

docs: $(STAMP)
	@$(BIN)/python docs/make_reference.py
	@MQCORE_TEST_UPDATE=1 $(BIN)/pytest -q tests/docs tests/config/test_example_file.py

# Goes on where it was interrupted; remove build/conformance for a new run. ARGUMENTS='--seeds 50' for more.
matrix: $(STAMP)
	@mkdir -p build
	-@$(BIN)/mqcore conformance run --storage all --transport all --tier contract,T0,T1 --to build/conformance $(ARGUMENTS)
	@$(BIN)/mqcore conformance matrix build/conformance > docs/conformance-matrix.md

clean:
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "mqcore needs Python 3.11 or newer: none found; say which with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing mqcore and what its tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm -f $(VENV)/.installed-* && touch $(STAMP)
