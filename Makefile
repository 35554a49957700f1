# Every target's `##` comment is its line in `make help`; tests hold the list to what exists.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PORT ?= 8000
JOBS ?= auto

.PHONY: help up test quick check format lock clean preflight

help: ## list every target
	@grep -hE '^[a-zA-Z_%-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-28s %s\n", $$1, $$2}'

preflight:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "TokenMart needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)." >&2; \
	  echo "Install it (Debian: apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot make a virtual environment (module venv or ensurepip is missing)." >&2; \
	  echo "On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }

# pip rather than a faster installer: it honours the index and mirror that the machine is set up with.
# Meanwhile the other processors compile; what there is to say about that is said by $(COMPILE).
define install
	@$(PYTHON) -m marketplace.gateway.express.build --ahead >/dev/null 2>&1 &
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing $(1) into $(VENV) (pinned and hashed, half a minute) ..." >&2
	@$(PIP) install -q --require-hashes -r requirements/build.lock -r requirements/$(1).lock || { \
	  echo "The packages could not be installed: see pip's message above; nothing else was changed." >&2; exit 2; }
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.base: requirements/base.lock requirements/build.lock pyproject.toml | preflight
	$(call install,base)

$(VENV)/.dev: requirements/dev.lock requirements/build.lock pyproject.toml | preflight
	$(call install,dev)
	@touch $(VENV)/.base

# The gateway's compiled part; says so and goes on where there is no compiler. Nothing to do: 50 ms.
COMPILE := $(BIN)/python -m marketplace.gateway.express.build
COMPILED = $(wildcard marketplace/gateway/express/*.[ch]pp)

up: $(VENV)/.base ## set up, seed, start everything; prints a key and a curl line that works
	@$(COMPILE)
	@$(BIN)/tokenmart up --port $(PORT)

test: $(VENV)/.dev ## set up and run all tests, in parallel
	@$(COMPILE)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

quick: $(VENV)/.dev ## format, lint, types, import contracts
	@$(COMPILE)
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/clang-format --dry-run -Werror $(COMPILED)
	@$(BIN)/lint-imports --no-logo >/tmp/tokenmart-imports.$$$$ 2>&1 || { cat /tmp/tokenmart-imports.$$$$; rm -f /tmp/tokenmart-imports.$$$$; exit 1; }; rm -f /tmp/tokenmart-imports.$$$$
	@$(BIN)/mypy

check: quick test ## quick, then all tests

format: $(VENV)/.dev ## rewrite the sources in the one format
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .
	@$(BIN)/clang-format -i $(COMPILED)

toolchain-%: preflight ## make .toolchains/<name> from requirements/<name>.lock (train, litellm)
	@test -f requirements/$*.lock || { echo "There is no requirements/$*.lock; toolchains: $$(cd requirements && ls *.lock | sed 's/\.lock//' | tr '\n' ' ')" >&2; exit 2; }
	@if ! cmp -s requirements/$*.lock .toolchains/$*/installed.lock; then \
	  echo "making .toolchains/$* ..." >&2; \
	  mkdir -p .toolchains && $(PYTHON) -m venv .toolchains/$* && \
	  { test ! -f requirements/$*.torch || .toolchains/$*/bin/python -m pip install -q --disable-pip-version-check -r requirements/$*.torch; } && \
	  .toolchains/$*/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/$*.lock && \
	  cp requirements/$*.lock .toolchains/$*/installed.lock; fi

bench-%: $(VENV)/.dev ## run benchmarks/<name>: one table of ratios, and build/bench/<name>.json
	@$(COMPILE)
	@$(BIN)/python -m benchmarks.$(subst -,_,$*) $(ARGS)

prove-%: $(VENV)/.dev ## run the long proof <name> (DURATION_S=, SEED=); exits non-zero when it falls short
	@$(COMPILE)
	@DURATION_S=$(DURATION_S) SEED=$(SEED) $(BIN)/python -m tests.proofs.$(subst -,_,$*) $(ARGS)

lock: $(VENV)/.dev ## pin requirements/*.lock anew from pyproject.toml (needs uv on the PATH)
	@command -v uv >/dev/null || { echo "Locking needs uv: pip install uv" >&2; exit 2; }
	uv pip compile pyproject.toml --extra all --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/base.lock
	uv pip compile pyproject.toml --extra dev -c requirements/base.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/dev.lock
	uv pip compile requirements/build.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/build.lock

clean: ## remove what was built or measured; environments and data stay
	rm -rf build dist marketplace/gateway/express/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
