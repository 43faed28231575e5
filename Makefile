# Two commands on a fresh machine: `make serve` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
PORT ?= 8080
E2E ?= e2e
REFERENCE ?= reference
SUITES ?= loads
# Processes that share out the tests, but for those with bounds in seconds, which follow alone.
JOBS ?= 2
ALONE := faults or alone
PEERS_PYTHON ?= $(PY)
PY := $(VENV)/bin/python
SHARED := --numprocesses $(JOBS) --dist loadfile
# The first of these that runs and is at least 3.11 (a pyenv shim may exist and not run).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Installs the given extras with pinned versions, once per change of the pins.
define install
	@test -n "$(PYTHON)" || { echo "Quorum needs Python 3.11 or newer on PATH (or PYTHON=...)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Quorum needs Python's venv module (Debian: apt install python3-venv)"; exit 1; }
	@echo "Installing $(1) into $(VENV) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[$(1)]"
	@touch $@
endef

.PHONY: help serve setup test test-reference test-faults compose-test soak lint format types bench bench-llm bench-recommender train lock audit clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

$(VENV)/.serve: pyproject.toml constraints.txt
	$(call install,serve)

$(VENV)/.test: pyproject.toml constraints.txt
	$(call install,test)

$(VENV)/.bench: pyproject.toml constraints.txt
	$(call install,bench)

$(VENV)/.bench-llm: pyproject.toml constraints.txt
	$(call install,bench-llm)

$(VENV)/.bench-recommender: pyproject.toml constraints.txt
	$(call install,bench-recommender)

$(VENV)/.reference: pyproject.toml constraints.txt
	$(call install,reference)

serve: $(VENV)/.serve ## run everything in one process; PORT= changes the port
	@GATEWAY_PORT=$${GATEWAY_PORT:-$(PORT)} exec $(PY) -m services

setup: $(VENV)/.test ## install what tests and checks need

lint: $(VENV)/.test ## format and lint, changing nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .

format: $(VENV)/.test ## format, and mend what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

types: $(VENV)/.test ## mypy --strict
	$(PY) -m mypy

test: lint types ## all that needs no Docker
	$(PY) -m pytest $(SHARED) -m 'not (reference or e2e or soak or $(ALONE))'
	$(PY) -m pytest -m '$(ALONE)'

test-reference: $(VENV)/.reference ## against torch, transformers and the openai client; the console in Chromium
	$(PY) -m pytest $(SHARED) -m '$(REFERENCE)'

test-faults: $(VENV)/.test ## every service a process of its own over Redis, broken one by one
	$(PY) -m pytest -m faults

compose-test: $(VENV)/.test ## docker compose and a swarm, scaled, and broken one fault after another (needs Docker)
	$(PY) -m pytest -m '$(E2E)' -v

soak: $(VENV)/.test ## half an hour of load on the compose stack: nothing may grow (needs Docker)
	$(PY) -m pytest -m soak -v -s

bench: $(VENV)/.bench ## tokens per second, with all drafters and with none
	$(PY) -m benchmarks.generation

bench-llm: $(VENV)/.bench-llm ## Quorum beside its own plain decoding, by load; SUITES="peers ablation redis large" for more, PEERS_PYTHON= has the peers (hours)
	$(PY) -m benchmarks.llm $(SUITES) --peers-python $(PEERS_PYTHON)

bench-recommender: $(VENV)/.bench-recommender ## Quorum's recommender beside other ways; PEERS_PYTHON= has the peers
	$(PY) -m benchmarks.recommender --peers-python $(PEERS_PYTHON)

train: ## train the shipped models again (CPU or GPU)
	$(PYTHON) -m venv $(VENV)-train
	$(VENV)-train/bin/python -m pip install --quiet -c constraints.txt ".[train]"
	$(VENV)-train/bin/python -m models.train
	$(VENV)-train/bin/python -m models.train_recommender

lock: ## pin what the images install, with hashes, from pyproject.toml and constraints.txt
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@for image in gateway drafter+cpu voter verifier+cpu recommender+cpu drafter+gpu verifier+gpu autoscaler otel; do \
		case $$image in *+gpu) file=$${image%+gpu}-gpu;; *) file=$${image%%+*};; esac; \
		$(PY) -m uv pip compile --quiet --no-header --no-annotate --universal --python-version 3.11 \
			--generate-hashes -c constraints.txt $$(printf -- '--extra %s ' $${image//+/ }) \
			-o deploy/requirements/$$file.txt pyproject.toml || exit 1; done

audit: $(VENV)/.test ## known vulnerabilities of what the images install (asks a public database)
	@$(PY) -m pip install --quiet --disable-pip-version-check pip-audit
	@for file in deploy/requirements/*.txt; do $(PY) -m pip_audit --disable-pip -r $$file || exit 1; done

clean: ## remove virtual environments and caches
	rm -rf $(VENV) $(VENV)-train .mypy_cache .ruff_cache .pytest_cache .hypothesis
