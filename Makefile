# Two commands: `make compare` runs the main job, `make test` the checks. Both make the environment they need.

PYTHON ?= python3
VENV ?= .venv
PRESET ?= full
OUT ?= runs/compare
MINUTES ?= 6
TIMED ?= softmax, sliding_window(left=255, right=0), bigbird, linear, local, sparse_transformer, gated_delta
BIN = $(VENV)/bin

# The part of the suite that tells whether another Python and another jax work, too.
QUICK := tests/test_contract.py tests/test_door.py tests/test_jax_nn.py tests/test_layers.py tests/test_export.py \
	tests/test_recurrence.py tests/test_decoding.py tests/test_layer_decoding.py tests/test_command_line.py \
	tests/test_records.py tests/test_hopper.py tests/test_hopper_recurrence.py

.PHONY: compare test test-quick test-oldest test-slow test-documents test-compiled parity mutants compiled gpu gpu-correct gpu-speed lint format wheel clean

compare: $(VENV)/experiments
	$(BIN)/python -m experiments.compare --preset=$(PRESET) --out=$(OUT)

# Neighbours share programs and fixtures, so each worker takes a run of tests.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal -q

test: lint
	$(PYTEST) -m "not slow"

test-quick: $(VENV)/test
	$(PYTEST) -m "not slow" $(QUICK)

# With the oldest versions that setup.cfg allows.
test-oldest: VENV = .venv-oldest
test-oldest:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PYTHON) tests/oldest.py > $(VENV)/oldest.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(VENV)/oldest.txt --editable '.[test]'
	$(PYTEST) -m "not slow" $(QUICK)

test-slow: $(VENV)/test
	$(PYTEST) -m slow

# What README and BUILD.md tell their readers to run.
test-documents: $(VENV)/test
	$(PYTEST) -m slow tests/test_docs.py

# What programs for devices that are not here move, by compilers that no other target installs.
test-compiled: VENV = .venv-aot
test-compiled:
	$(MAKE) VENV=$(VENV) $(VENV)/test $(VENV)/aot
	$(PYTEST) tests/test_compiled.py

parity: $(VENV)/test $(VENV)/peers
	$(PYTEST) tests/*_packages.py

mutants: $(VENV)/test
	$(BIN)/python -m tests.mutants

# What programs for devices that are not here launch and move; their compilers are large, and stand in a place of their own.
compiled:
	$(MAKE) VENV=.venv-aot .venv-aot/experiments .venv-aot/aot
	.venv-aot/bin/python -m experiments.compiled --out=runs/compiled

# On a machine with a GPU, whose Python has jax and flax already: nothing is installed.
# What is not done when the minutes are over is done by the next run; a law that is broken does not keep the second part.
gpu:
	$(MAKE) gpu-correct; laws=$$?; $(MAKE) gpu-speed && exit $$laws

gpu-correct:
	$(PYTHON) -m experiments.conformance --platform=gpu --minutes=$(MINUTES) --out=results/gpu/conformance

gpu-speed:
	$(PYTHON) -m experiments.throughput --platform=gpu --minutes=$(MINUTES) --out=results/gpu/throughput \
		--kernels='$(TIMED)' --lengths=4096,32768

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: $(VENV)/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/test
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info

# One stamp for each extra that is installed.
$(VENV)/%: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

.SECONDARY:
