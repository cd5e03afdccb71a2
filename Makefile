# make demo | make test | make lint: each sets up .venv first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format detectron2 clean

demo: $(READY)
	$(BIN)/iif quickstart --out output/demo

test: $(READY)
	$(BIN)/python -m pytest

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
