# make demo | make test | make test-slow | make lint: each sets up .venv first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow lint format detectron2 clean

demo: $(READY)
	$(BIN)/iif quickstart --out output/demo

# One process per core, with one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Every configuration trains 3 iterations and evaluates.
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow tests/slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Try again to install Detectron2 into an existing .venv.
detectron2: $(READY)
	tools/install_detectron2.sh $(BIN)/python

$(READY): requirements.txt pyproject.toml tools/set_up.sh tools/install_detectron2.sh
	PYTHON=$(PYTHON) tools/set_up.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) output
