# Everything runs in a virtual environment of its own: .venv, or .venv-python3.12 with PYTHON=python3.12.
PYTHON ?= python3
VENV ?= $(if $(filter python3,$(notdir $(PYTHON))),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml constraints.txt

.PHONY: demo test device-test check bench results clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/hetero demo --out runs/demo

test: $(VENV)/.dev
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -n 2 --dist loadfile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Needs the programs qemu-system-aarch64 and adb: sudo apt-get install qemu-system-arm adb
device-test: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/device-test.sh

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The tables of docs/results, of the scores in docs/results/data.
results: $(VENV)/.dev
	$(BIN)/python -m benchmarks.results_pages

clean:
	rm -rf .venv .venv-* build *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[train,onnx,report]'
	touch $@

$(VENV)/.dev: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo
