# Every target sets up .venv by itself. The two that matter: make build CFG=..., make test.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TRAIN  := $(VENV)/.installed-train
CFG    ?= configs/bpp3x_int8.yaml

.DEFAULT_GOAL := help
.PHONY: help build test check lint verify table models data clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

build: $(STAMP) ## build a spec: make build CFG=configs/bpp3x_int8.yaml
	$(PY) -m compiler.build $(CFG) $(ARGS)

test: $(STAMP) ## the test suite
	$(PY) -m pytest $(ARGS)

check: lint test ## linters, type checker and the test suite

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

verify: $(STAMP) ## re-measure every bundle in artifacts/
	$(PY) -m compiler.verify $(ARGS)

table: $(STAMP) ## the published performance table with our figures beside it
	$(PY) -m compiler.table $(ARGS)

models: $(TRAIN) ## fetch the official 3x weights, or import them: make models FROM=PATH
	$(PY) -m models.official $(if $(FROM),--from "$(FROM)")

data: $(STAMP) ## fetch DIV2K's validation images, or take them: make data FROM="ZIP_OR_DIR ..."
	$(PY) -m compiler.data $(if $(FROM),--from $(FROM)) $(ARGS)

clean: ## remove caches and .venv; bundles stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@sh .ci/prerequisites $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

$(TRAIN): $(STAMP)
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --editable '.[train]'
	@touch $@
