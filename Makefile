# Every target sets up .venv by itself. The two that matter: make build CFG=..., make test.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TRAIN  := $(VENV)/.installed-train
SIGN   := $(VENV)/.installed-publish
CFG    ?= configs/bpp3x_int8.yaml
SHIPPED := configs/bpp2x_int8.yaml configs/bpp3x_int8.yaml

.DEFAULT_GOAL := help
.PHONY: help build test check lint verify table models data key publish pull clean fuzz resume
.PHONY: ci-check ci-build ci-verify ci-publish ci-diff

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

key: $(SIGN) ## a key pair to sign with: make key KEY=vacc.key
	$(PY) -m compiler.publish --make-key $(if $(KEY),"$(KEY)",$(error name it: make key KEY=vacc.key))

publish: $(SIGN) ## pack, sign, push: make publish CFG=... KEY=FILE REF=REGISTRY/REPOSITORY:TAG
	$(PY) -m compiler.publish $(CFG) $(if $(KEY),--key "$(KEY)") $(if $(REF),--ref "$(REF)") $(ARGS)

pull: $(SIGN) ## fetch and check: make pull REF=REGISTRY/REPOSITORY:TAG KEY=FILE.pub
	$(PY) -m compiler.pull $(if $(REF),"$(REF)",$(error name it: make pull REF=...)) \
	    $(if $(KEY),--key "$(KEY)") $(ARGS)

# What .github/workflows/ci.yml runs, for any other machine.
ci-check: ## everything that is checked, from a bare Debian
	bash .ci/run

ci-build: $(STAMP) ## build the shipped specs
	@set -e; for spec in $(SHIPPED); do $(MAKE) build CFG=$$spec; done

ci-verify: $(STAMP) ## re-measure the built bundles, figures in artifacts/accuracy.json
	$(PY) -m compiler.verify --json artifacts/accuracy.json

ci-publish: $(SIGN) ## make ci-publish REGISTRY=HOST/PATH TAG=1.0 KEY=FILE
	@sh .ci/publish "$(REGISTRY)" "$(TAG)" "$(KEY)" $(SHIPPED)

ci-diff: $(STAMP) ## compare with another revision: make ci-diff BASE=origin/main
	@bash .ci/diff "$(or $(BASE),origin/main)" $(SHIPPED)

fuzz: $(STAMP) ## look for input that breaks: make fuzz SUBJECT=spec N=1000000 MINUTES=30 (or model build image)
	$(PY) -m tests.fuzz $(or $(SUBJECT),spec) -n $(or $(N),100000) --minutes $(or $(MINUTES),10) $(ARGS)

resume: $(STAMP) ## kill builds at N random moments and compare the bytes: make resume N=50
	VACC_KILLS=$(or $(N),50) $(PY) -m pytest -s tests/compiler/test_resume.py

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

$(SIGN): $(STAMP)
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --editable '.[publish]'
	@touch $@
