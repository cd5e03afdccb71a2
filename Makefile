# make demo | make test | make test-slow | make lint | make site | make notebook: each sets up .venv first where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow lint format site notebook detectron2 clean

demo: $(READY)
	$(BIN)/iif quickstart --out output/demo

# One process per core, with one thread each.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Every configuration trains 3 iterations and evaluates; the built wheel; interrupts of several processes.
test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation, as pages in output/site.
site: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[site]" --no-build-isolation
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# The notebook of docs/notebooks, executed, as a page in output/notebook.
notebook: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[notebook]" --no-build-isolation
	$(BIN)/jupyter nbconvert --execute --to html --output-dir output/notebook \
		--ExecutePreprocessor.cwd=. docs/notebooks/openmoji_torchvision.ipynb

# Try again to install Detectron2 into an existing .venv.
detectron2: $(READY)
	tools/install_detectron2.sh $(BIN)/python

$(READY): requirements.txt pyproject.toml tools/set_up.sh tools/install_detectron2.sh
	PYTHON=$(PYTHON) tools/set_up.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) output
