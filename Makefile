# Two commands do everything, set-up included: make demo, make test. make bench measures.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# An interpreter that has PyTorch; without one the comparison with gloo is left out.
TORCH_PYTHON ?= $(BIN)/python

# One more than there are cores, up to four: many tests wait for processes that they have started.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 4)))

# Tests start hundreds of processes; without kept bytecode each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long survive fuzz chaos lint format docs bench bench-full clean

demo: $(VENV)/.demo
	$(BIN)/gossipnode swarm

# The scenarios count their faults together, so one process runs them all.
test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/scenarios
	$(BIN)/python -m pytest tests/scenarios

# The same at greater length, and every property with examples of its own.
test-long: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m long
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --hypothesis-profile drawn --ignore tests/scenarios

# What `make test` does in little: power cut twice, everywhere; 2,000 storms; 1,000 times SIGKILL.
survive: $(VENV)/.dev
	$(BIN)/python tests/scenarios/campaign.py --seeds 2000
	GOSSIPNODE_SECOND_CUTS=100000 $(BIN)/python -m pytest --timeout 3600 tests/node/test_power_cuts.py
	$(BIN)/python tests/daemon/killing.py --cycles 1000

# A million inputs a decoder, as many by what they reach, and requests by the interface's own
# description.
fuzz: $(VENV)/.fuzz
	cd tests && ../$(BIN)/python -m fuzz.interface
	cd tests && ../$(BIN)/python -m fuzz.mutating --inputs 1000000
	cd tests && ../$(BIN)/python -m fuzz.guided --inputs 1000000

# Real processes and bad lines, at length; what needs network namespaces is skipped without root.
chaos: $(VENV)/.dev
	$(BIN)/python -m pytest --timeout 1200 -m "long or not long" tests/chaos
	$(BIN)/python tests/chaos/heals.py --heals 20

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/python -m gossipnode.cli.reference > docs/config.md

# They report, and fail for no figure. python -m benchmarks.compare OLD NEW tells what got slower.
bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks --quick --torch-python $(TORCH_PYTHON) --json runs/bench-quick.json

bench-full: $(VENV)/.demo
	$(BIN)/python -m benchmarks --full --torch-python $(TORCH_PYTHON) --json runs/bench-full.json

clean:
	rm -rf $(VENV) runs

# A stamp a set of packages: installed again only when pyproject.toml changes. pip leaves bytecode
# of all but an editable package; without it each start of a node compiles 160 modules, where
# PYTHONDONTWRITEBYTECODE keeps Python from leaving it.
$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[plot]'
	$(BIN)/python -m compileall -q gossipnode
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(VENV)/.fuzz: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gossipnode needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
