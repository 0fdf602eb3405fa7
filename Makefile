# Everything runs in .venv, which each target makes when it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format bench pictures clean

demo: .venv/installed
	$(BIN)/stn demo

# A process for each core. PYTEST_ARGS=tests/geometry for a part.
test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadgroup $(PYTEST_ARGS)

lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Real MNIST is needed: STN_DATA=DIR make bench. The last one, table 1, takes most of an hour on two cores.
bench: .venv/installed-test
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/readings.py
	$(BIN)/python benchmarks/distortions.py
	$(BIN)/python benchmarks/packed.py
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/pictures_cost.py
	$(BIN)/stn table table1 --epochs 6 --json > benchmarks/results/table1-quick.json

# What the README shows: RUNS='runs/a runs/b' takes these runs, else two are trained on the embedded digits.
pictures: .venv/installed-test
	$(BIN)/python docs/make_pictures.py $(RUNS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --editable '.[test]'
	touch $@ .venv/installed
