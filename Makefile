# Every target does its own set-up in .venv; pip's own settings (index, cache, certificates) are respected.
PYTHON ?= python3
# Torch's threads would otherwise spin while they wait, which slows everything where processors are shared.
export OMP_WAIT_POLICY ?= passive
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint check bench docs clean

demo: $(VENV)/.agents
	$(BIN)/python examples/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: $(VENV)/.agents
	set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

# A stamp per set of extras: .dev and .test bring what .agents brings, so that the editable install never shrinks.
$(VENV)/.agents: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[agents]'
	touch $@

$(VENV)/.test: $(VENV)/.agents
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[agents,test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
