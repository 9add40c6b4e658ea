# Two commands matter: `make demo` shows everything, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

STORE ?= pgvector
SEEDS ?= 20
STORMS ?=
MINUTES ?= 20
JOBS ?= 3

.PHONY: demo test lint chaos storms soak bench-ingest bench-ask bench-faults bench-limits bench-limited-stack install lock clean

demo: install  ## Start the embedded stack, ingest our own docs, ask two questions, stop everything.
	@$(BIN)/python -m deploy.local.demo

test: lint  ## Lint, types, import rules and all tests, in JOBS=3 processes; those that come first take longest.
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder

chaos: install  ## Ingest while workers are killed and services restart: 20 seeds, STORE=pgvector or weaviate.
	$(BIN)/python -m tests.chaos --store $(STORE) --seeds $(SEEDS)

storms: install  ## Ask while models and servers fail: all storms, or STORMS="redis model", STORE=pgvector or weaviate.
	$(BIN)/python -m tests.storms $(STORMS) --store $(STORE)

soak: install  ## Ask at 60 % of capacity for MINUTES=20: does anything grow?
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --store $(STORE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-ingest: install  ## Measure ingest (docs/performance.md); BENCH="--parts api" passes options on.
	@$(BIN)/python -m tests.benchmarks.ingest $(BENCH)

bench-ask: install  ## Measure asking (docs/performance.md); BENCH="--parts rate,twin" passes options on.
	@$(BIN)/python -m tests.benchmarks.ask $(BENCH)

bench-faults: install  ## Ingest through a service that limits, fails and hangs (docs/operations.md).
	@$(BIN)/python -m tests.benchmarks.faults $(BENCH)

bench-limits: install  ## Many processes and one service that limits them (docs/operations.md).
	@$(BIN)/python -m tests.benchmarks.limits $(BENCH)

bench-limited-stack: install  ## Real workers, people and a bulk ingest, and models that limit them (docs/operations.md).
	@$(BIN)/python -m tests.benchmarks.limited_stack $(BENCH)

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

lock: install  ## Pin what is installed now.
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
