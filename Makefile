# `make demo` and `make test` do all their set-up themselves, once, in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
DEMO_STEPS ?= 100
SOURCES := collectors profiler dashboard sample_traces tests benchmarks examples scripts

.PHONY: help demo test verdicts lint types bench

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.dashboard ## run an example under boundscope and print what it is bound by
	$(BIN)/boundscope run examples/slow_store.py --steps $(DEMO_STEPS)
	@if [ -f dashboard/app.py ] && [ -t 1 ]; then $(BIN)/boundscope dashboard; fi

test: $(VENV)/.dev ## run the tests
	@scripts/system_packages.sh
	scripts/test.sh $(BIN)/python $(PYTEST_ARGS)

verdicts: $(VENV)/.dev ## require each verdict on a real run three times out of three
	@scripts/system_packages.sh
	VERDICT_REPEATS=3 $(BIN)/python -m pytest tests/test_verdicts.py

lint: $(VENV)/.dev ## check style and formatting
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/.dev ## check types, strictly
	scripts/types.sh $(BIN)/mypy

bench: $(VENV)/.dev ## measure what wrapping a training costs
	$(BIN)/python benchmarks/overhead.py $(BENCH_ARGS)

$(VENV)/.torch: scripts/environment.sh
	@scripts/environment.sh torch $(VENV) $(PYTHON) $(TORCH)

$(VENV)/.dashboard: $(VENV)/.torch pyproject.toml constraints.txt
	@scripts/environment.sh dashboard $(VENV)

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	@scripts/environment.sh dev $(VENV)
