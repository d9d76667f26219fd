# Each target sets up what it needs in .venv, from Python 3.11+, make and a
# package index. Choose the interpreter with `make PYTHON=python3.12 …`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK := .ci/requirements.lock
# what is compiled where a compiler is at hand, and its C types
CORE := wal/codec.py $(wildcard wal/*.pxd)
# more arguments for pytest: make test ARGS="tests/test_leaks.py -x"
ARGS ?=
# how many tests run at once: most of them wait for a process or a clock
WORKERS ?= 4
# how many searches for broken promises do; they compute
JOBS ?= 2

# Commands that the tests start find their byte code cached, as an installation has it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo clients test torture compatibility lint format bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## set up .venv with seawall installed from this checkout

demo: $(VENV)/.installed ## run the main job on a real input: the standard library's sources
	$(BIN)/python benchmarks/demo.py

clients: $(VENV)/.installed ## build the Kafka clients of the tests that are not in Python, as far as npm, go and mvn are here
	$(BIN)/python tests/clients/build.py

test: $(VENV)/.installed ## run all tests, in random order (ARGS="…" for pytest), and a sample of torture
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
	    --durations=10 $(ARGS)
	$(if $(ARGS),,$(BIN)/seawall torture --quick --jobs $(JOBS))

torture: $(VENV)/.installed ## search for broken promises, for hours, and run the longest tests in full (ARGS="--budget 10m --seed 7": only search)
	$(BIN)/seawall torture $(if $(ARGS),$(ARGS),--full)
	$(if $(ARGS),,SEAWALL_TORTURE=1 $(BIN)/python -m pytest -m long_row --durations=10 tests)

compatibility: clients ## try all Kafka clients, and write docs/compatibility.md
	PYTHONPATH=tests $(BIN)/python -m clients.compatibility

lint: $(VENV)/.installed ## ruff, its formatter as a check, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## let ruff sort imports and format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## measure, and print ratios against the bare system calls
	$(BIN)/python -m benchmarks

lock: $(VENV)/.created ## write the development lock anew (UPGRADE=1: to the newest versions)
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    --quiet $(if $(UPGRADE),--upgrade) --output-file $(LOCK)

clean: ## remove what the other targets made; data/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(wildcard wal broker cli tests benchmarks) \( -name __pycache__ -prune -exec rm -rf {} + \) \
	    -o \( -name '*.so' -exec rm -f {} + \)
	rm -f wal/*.c wal/*.html

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "seawall needs Python 3.11 or newer, but '$(PYTHON)' is missing or older;" \
	         "name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.requirements: $(VENV)/.created $(LOCK)
	$(PIP) install --require-hashes -r $(LOCK)
	@touch $@

# Editable, so that everything runs against the checkout; again when the compiled
# core's source or the packaging changes.
$(VENV)/.installed: $(VENV)/.requirements pyproject.toml $(CORE)
	@rm -f wal/codec.c # not made anew when only the C types have changed
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
