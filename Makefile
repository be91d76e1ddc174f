# make repro: the whole chain, with its scores. make test: the tests. Both set up .venv first if they must.
PYTHON ?= python3.11
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
READY := $(VENV)/.ready

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## .venv with the pinned packages
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	python -m tools.repair
	touch $@

repro: $(READY)  ## run what is out of date of the chain and show the scores
	python -m tools.repair
	dvc repro
	python -m tools.scores

unsloth: $(READY)  ## Unsloth as an engine, for an NVIDIA GPU (docs/unsloth.md says why without its own pins)
	python -m pip install --quiet --constraint constraints.txt --no-deps unsloth unsloth_zoo cut_cross_entropy

scores: $(READY)  ## show the scores of the last run
	python -m tools.scores

test: $(READY)  ## lint, types, the quick tests and a whole chain on a tiny model; minutes
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -m 'not slow' -n 2 --dist loadgroup

slow-test: $(READY)  ## the tests that take longer: many whole chains, killed runs, sweeps, browsers
	python -m pytest -m 'slow and not soak' -n 2 --dist loadgroup

soak: $(READY)  ## sweeps by every launcher, twelve points at once; 50 kills of training, 20 of other stages, flipped bits
	python -m pytest -m soak

quick-test: $(READY)  ## the tests that take seconds
	python -m pytest -m 'not slow and not chain' -n 2

.PHONY: help setup repro unsloth scores test slow-test soak quick-test
.DEFAULT_GOAL := help
