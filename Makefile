# Every target does its own set-up in .venv; pip's own settings (index, cache, certificates) are respected.
PYTHON ?= python3
# Torch's threads would otherwise spin while they wait, which slows everything where processors are shared.
export OMP_WAIT_POLICY ?= passive
VENV := .venv
BIN := $(VENV)/bin
INTEGRATIONS ?= sb3-contrib torchrl skrl ray[tune]

.PHONY: demo test test-integrations test-integrations-older test-install lint check bench docs clean

demo: $(VENV)/.agents
	$(BIN)/python examples/demo.py

# Where a worker has run out of tests, it takes some of the other's.
test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-integrations: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --constraint constraints-integrations.txt \
		$(INTEGRATIONS)
	$(BIN)/python -m pytest tests/integrations

# RLlib and Tianshou want older versions than constraints.txt has (see docs/integrations.md): an environment of their own.
test-integrations-older: $(VENV)/older/.done
	$(VENV)/older/bin/python -m pytest tests/integrations

# From the source distribution, and from the wheel made of it, in an environment with nothing else.
test-install: $(VENV)/.test
	rm -rf $(VENV)/install
	$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("$(VENV)/install")'
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(VENV)/install $(VENV)/install/*.tar.gz
	$(PYTHON) -m venv $(VENV)/install/empty
	set -e; for built in $(VENV)/install/*.tar.gz $(VENV)/install/*.whl; do \
		$(VENV)/install/empty/bin/python -m pip install --quiet --force-reinstall --constraint constraints.txt $$built; \
		$(VENV)/install/empty/bin/python -m pip check; \
		(cd $(VENV)/install && empty/bin/python -c 'import gymnasium, plastic_envs, sys; \
			gymnasium.make_vec("PlasticRNN/FewShotClassification-v0", num_envs=2).reset(); \
			assert "torch" not in sys.modules'); \
	done

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: $(VENV)/.agents
	set -e; for name in unroll environments vector_environments actor_critic; do $(BIN)/python benchmarks/$$name.py; done

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

$(VENV)/older/.done: $(VENV)/.python pyproject.toml constraints.txt constraints-integrations.txt
	$(PYTHON) -m venv $(VENV)/older
	grep -vE '^(gymnasium|filelock)==' constraints.txt > $(VENV)/older/constraints.txt
	$(VENV)/older/bin/python -m pip install --quiet --constraint $(VENV)/older/constraints.txt \
		--constraint constraints-integrations.txt --editable '.[agents,test]' 'ray[rllib]' \
		'tianshou; python_version >= "3.11"'
	touch $@
