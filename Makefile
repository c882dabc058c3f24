# soco: `make demo` shows what it does, `make test` shows that it works.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A file of tests is one process's, so that a server or a network that its tests share is made once.
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
DEMO_OUTPUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-gpu format render check check-k8s bench clean

help:  ## Show what can be done here
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Install into .venv (needs Python 3.11 or 3.12; 6 GB, 3 to 10 minutes)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing; run: sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), but soco needs 3.11 or 3.12; name another one with: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "error: python3-venv is missing; run: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[pipelines,cluster,dev]'
	# The reference of the LVIS tests; what it requires would put a second OpenCV over the first.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps lvis==0.5.3
	@touch $@

demo: $(INSTALLED)  ## Run the whole pipeline on rendered scenes: proposals to report, about 4 minutes
	$(BIN)/python pipelines/full_benchmark.py --local --recipe demo --output $(DEMO_OUTPUT)

test: $(INSTALLED)  ## Run the tests
	$(PYTEST)

test-full: $(INSTALLED)  ## Run the tests, the longest included
	$(PYTEST) -m 'slow or not slow'

test-gpu: $(INSTALLED)  ## Run the tests that want a GPU (all others compute on the CPU)
	SOCO_REQUIRE_GPU=1 $(PYTEST) -m gpu

format: $(INSTALLED)  ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

render: $(INSTALLED)  ## Write what is generated: components/*/component.yaml and pipelines/golden
	$(BIN)/python -m pipelines.render

check: $(INSTALLED)  ## Static checks: format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-k8s: $(INSTALLED)  ## Check the Kubernetes manifests, without a cluster
	$(BIN)/python -m k8s.check

bench: $(INSTALLED)  ## Measure: proposals, the demo with three seeds, a pretraining step, the evaluator
	$(BIN)/python benchmarks/proposals.py
	$(BIN)/python benchmarks/proposals_reading.py
	$(BIN)/python benchmarks/demo_seeds.py
	$(BIN)/python benchmarks/pretrain_step.py
	$(BIN)/python benchmarks/evaluation.py

clean:  ## Remove the environment and the caches; results in runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
