.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?=
PY := .venv/bin/python
STAMP := .venv/.set-up
AUDIT := .venv/audit
UNFINISHED := .venv/.unfinished
PACKAGES := app agents tables schemas replay
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# The stamp holds the folder it was made in: a moved or copied tree is set up again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help setup demo test simulate parity faults soak fuzz lint format docs kafka lock audit clean

help: ## Show this help
	@echo "onetape: one tape, live and replayed"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Start with \`make demo\`. It needs Python 3.11 or newer and a package index, nothing else."

setup: $(STAMP) ## Make .venv and install the locked packages (only when needed)
	@:

# A .venv is made anew when its Python or pip does not work, or when an earlier set-up was cut short half-way.
$(STAMP): requirements.lock pyproject.toml
	@if [ -e $(UNFINISHED) ] || ! $(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		found=; \
		for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
			if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "No Python 3.11 or newer found. Action: install one, or name it with \`make setup PYTHON=/path/to/python\`." >&2; exit 3; \
		fi; \
		echo "Making .venv with $$("$$found" --version) ..."; \
		if ! "$$found" -m venv --clear .venv >.venv.log 2>&1; then \
			tail -n 3 .venv.log >&2; rm -rf .venv .venv.log; \
			echo "Python cannot make a .venv. Action: install its venv module (Debian: apt-get install python3-venv)." >&2; exit 3; \
		fi; \
		rm -f .venv.log; \
	fi
	@echo "Installing the locked packages into .venv (about 350 MB, once) ..."
	@touch $(UNFINISHED)
	@$(PY) -m pip install --quiet --require-hashes --requirement requirements.lock
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm $(UNFINISHED)
	@printf '%s\n' "$(CURDIR)" >$(STAMP)
	@echo "Set-up is complete."

demo: setup ## Run everything once on a generated market: broker, worker, Redis, archive, replay, parity
	@.venv/bin/onetape demo

test: setup lint ## Check style and types, then run all tests
	@echo "Running the tests ..."
	@$(PY) -m pytest --numprocesses 2 --dist loadfile

simulate: setup ## Simulate the worker under KILLS=100000 kills from SEED=0 on
	@$(PY) tests/simulation.py --kills $(or $(KILLS),100000) --seed $(or $(SEED),0)

parity: setup ## Live = replayed for every recording, broker and batch size (25 minutes; needs ../shared/data)
	@$(PY) -m pytest -m "matrix or not matrix" tests/test_demo.py

faults: setup ## Kill real workers N times and do them other harm, from SEED on; prints the ledgers (N=30 SEED=1)
	@$(PY) tests/fault_run.py --kills $(or $(N),30) --seed $(or $(SEED),1)

fuzz: setup ## Change the bytes of others until something breaks: decoder, venues, archive, states (SECONDS=600)
	@$(PY) tests/fuzz.py --seconds $(or $(SECONDS),600)

soak: setup ## Run a worker under a steady load for HOURS, killed every ten minutes; prints how it fares (HOURS=1)
	@$(PY) tests/soak.py --hours $(or $(HOURS),1) --seed $(or $(SEED),1)

lint: setup ## Check style and types only
	@echo "Checking style and types ..."
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check .
	@$(PY) -m mypy

format: setup ## Rewrite the sources in the agreed style
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format .

docs: setup ## Write docs/features.md and docs/labels.md anew from the code
	@$(PY) -m agents.documentation
	@$(PY) -m replay.labels.documentation

kafka: setup ## Run a real Apache Kafka in the foreground (needs Java 17 and Maven)
	@$(PY) tests/kafka_broker.py

lock: ## Resolve the dependencies of pyproject.toml anew into requirements.lock (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--upgrade --extra dev --output-file requirements.lock pyproject.toml
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--constraint requirements.lock --output-file compose/image.lock pyproject.toml
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--upgrade --group audit --output-file compose/audit.lock
	@! grep -nE 'https?:|^tables==' requirements.lock compose/*.lock || { echo "Action: keep addresses and PyTables out of the lock." >&2; exit 1; }

audit: setup $(AUDIT)/.set-up ## Ask PyPI whether a locked package has a known vulnerability; not asked is not passed
	@$(AUDIT)/bin/python tests/audit_lock.py

# A Python of its own: what asks is no part of what it asks about.
$(AUDIT)/.set-up: compose/audit.lock
	@$(PY) -m venv --clear $(AUDIT)
	@$(AUDIT)/bin/python -m pip install --quiet --require-hashes --requirement compose/audit.lock
	@touch $@

clean: ## Remove .venv, caches and build results
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
