# `make demo` is the whole story; `make help` lists the rest. Needs python 3.11 or newer, and nothing installed.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
EXTRAS ?= cpu,openvino,train,bench,dev
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# Options for pip, e.g. PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the small torch.
PIP_FLAGS ?=
STAMP := $(VENV)/.installed
DATA := /usr/share/datasets/fashion-mnist
TESTS ?= tests

.DEFAULT_GOAL := help
.PHONY: help venv demo test cpp lint format bench gpu on-gpu data clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

venv: $(STAMP)  ## Install everything into .venv, at the versions in constraints.txt

# torch goes first, at its pinned version: otherwise a dependency may choose another one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "[1/3] creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[2/3] installing torch"
	@$(PIP) install $(PIP_FLAGS) -c constraints.txt torch
	@echo "[3/3] installing dipgo-compile and its tools"
	@$(PIP) install $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## Train, compile, verify, time and draw on models/tiny-sd; results in demo/ (minutes, CPU only)
	@$(BIN)/python -m scripts.demo --output demo

# A process a core; a file's tests stay together, because they share exported models.
test: $(STAMP)  ## Run the tests that need neither hours nor a GPU, with coverage
	@$(BIN)/python -m pytest $(TESTS) -n auto --dist loadfile --cov --cov-report=term

cpp: $(STAMP)  ## Build and test the C++ runtime, under sanitizers and released (needs g++)
	@PATH="$(abspath $(BIN)):$$PATH" runtime/scripts/check.sh

lint: $(STAMP)  ## Check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)  ## Format, and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Time models/tiny-sd's trained mask and Stable Diffusion 1.5's size; results in benchmarks/
	@$(BIN)/python -m benchmarks run tiny-sd
	@$(BIN)/python -m benchmarks run sd15-256 --quick
	@$(BIN)/python -m benchmarks table

# An environment of its own: the packages onnxruntime and onnxruntime-gpu are the same modules.
gpu:  ## On a machine with an NVIDIA GPU: its tests, then its benchmarks (docs/gpu.md)
	@$(MAKE) --no-print-directory VENV=.venv-gpu EXTRAS=cuda,train,bench,dev on-gpu

on-gpu: $(STAMP)
	@nvidia-smi -L
	@$(BIN)/python -m pytest tests/gpu -m gpu
	@$(BIN)/python -m benchmarks run sd15-512-cuda

data:  ## Fetch Fashion-MNIST (Debian's dataset-fashion-mnist): needed only to train models/tiny-sd anew
	@if test -d $(DATA); then echo "Fashion-MNIST is in $(DATA)"; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	  apt-get install -y -qq dataset-fashion-mnist; \
	else echo "run: sudo apt-get install dataset-fashion-mnist (or see models/README.md)" >&2; exit 1; fi

clean:  ## Remove what the other targets made
	rm -rf $(VENV) .venv-gpu demo build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
