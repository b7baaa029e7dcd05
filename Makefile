# Everything runs from an isolated environment in .venv, made from requirements.lock.
# Needs: Python >= 3.11 and make.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin

# .venv is made anew for another PYTHON that is asked for, and when the one it was made with is gone.
ASKED := $(if $(filter command environment,$(origin PYTHON)),$(PYTHON))
WHICH := -c 'import os, sys; print(os.path.realpath(sys.executable))' 2>/dev/null
STALE := $(shell test ! -e .venv/installed || { made=$$($(BIN)/python $(WHICH)) && \
	{ test -z "$(ASKED)" || test "$$made" = "$$("$(ASKED)" $(WHICH))"; }; } || echo stale)

.PHONY: demo up test lint types layers check bench lock clean stale

demo: .venv/installed ## set everything up and run a whole flash sale (ARGS="--checkouts 5000")
	@$(BIN)/python -m deploy.cli demo $(ARGS)

up: .venv/installed ## start everything and stay up
	@$(BIN)/python -m deploy.cli up $(ARGS)

test: .venv/installed ## the whole suite; starts its own servers
	@$(BIN)/python -m pytest -n 2 $(ARGS)

bench: .venv/installed ## measure beside the alternatives
	@$(BIN)/python -m deploy.cli bench $(ARGS)

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/installed
	@$(BIN)/mypy

layers: .venv/installed
	@$(BIN)/lint-imports

check: lint types layers test

.venv/installed: requirements.lock $(STALE)
	@test -n "$(PYTHON)" || { echo "Sluiceway needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv from requirements.lock ..."
	@"$(PYTHON)" -m venv --clear .venv || { echo "Python's venv module is incomplete here (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-annotate --no-header \
		--no-emit-index-url --quiet --output-file requirements.lock

clean: ## remove the environment and the local data
	@# Root's Postgres keeps its data there, where it could not reach its folder here.
	@find .sluiceway -name location.txt -exec sed -n '/^\/var\/tmp\/sluiceway-pg-[A-Za-z0-9_]*$$/p' {} + 2>/dev/null | xargs rm -rf
	rm -rf .venv .sluiceway
