# Every target does its own set-up in .venv; pip's own settings (index, cache, certificates) are respected.
# `make help` prints the comments that follow the names of targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
# Torch's threads would otherwise spin while they wait, which slows everything where processors are shared.
export OMP_WAIT_POLICY ?= passive
VENV := .venv
BIN := $(VENV)/bin
RELEASE := $(VENV)/release/bin
INTEGRATIONS ?= sb3-contrib torchrl skrl ray[tune]

# pip would install any other folder at the top level of a wheel too, such as `tests`, as a package.
define CHECK_WHEEL
import sys, zipfile; \
names = {name.partition("/")[0] for name in zipfile.ZipFile(sys.argv[1]).namelist()}; \
found = sorted("dist-info" if name.endswith(".dist-info") else name for name in names); \
wanted = ["dist-info", "plastic_agents", "plastic_envs"]; \
sys.exit(0 if found == wanted else f"{sys.argv[1]} must hold {wanted} at top level, got {found}")
endef

.PHONY: help demo look test test-integrations test-integrations-older test-install lint format check bench docs docs-serve dist clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-24s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.agents ## train three networks, and write a table and a figure to runs/demo
	$(BIN)/python examples/demo.py

look: $(VENV)/.agents ## probe trained networks of the package, and write a table and a figure to runs/look
	$(BIN)/python examples/look.py

# Where a worker has run out of tests, it takes some of the other's.
PARALLEL = --numprocesses auto --maxprocesses 4 --dist worksteal

test: $(VENV)/.test ## run the tests in several processes, without those with other libraries
	$(BIN)/python -m pytest $(PARALLEL) -m 'not integrations'

test-integrations: $(VENV)/.test ## test with other libraries: INTEGRATIONS="sb3-contrib torchrl"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --constraint constraints-integrations.txt \
		$(INTEGRATIONS)
	$(BIN)/python -m pytest $(PARALLEL) tests/integrations

# RLlib, Tianshou and RL Zoo want older versions than constraints.txt has (see docs/integrations/README.md): an environment of
# their own.
test-integrations-older: $(VENV)/older/.done ## test with RLlib, Tianshou and RL Zoo, in an environment of their own
	$(VENV)/older/bin/python -m pytest tests/integrations

# `build` makes the wheel from the source distribution. The target installs each of them in an environment with nothing
# else.
test-install: $(VENV)/.release ## install the built packages in an empty environment
	rm -rf $(VENV)/install
	$(RELEASE)/python -m build --outdir $(VENV)/install .
	$(RELEASE)/python -c '$(CHECK_WHEEL)' $(VENV)/install/*.whl
	$(PYTHON) -m venv $(VENV)/install/empty
	set -e; for built in $(VENV)/install/*.tar.gz $(VENV)/install/*.whl; do \
		$(VENV)/install/empty/bin/python -m pip install --quiet --force-reinstall --constraint constraints.txt $$built; \
		$(VENV)/install/empty/bin/python -m pip check; \
		(cd $(VENV)/install && empty/bin/python -c 'import gymnasium, plastic_envs, sys; \
			from importlib.util import find_spec; \
			gymnasium.make_vec("PlasticRNN/FewShotClassification-v0", num_envs=2).reset(); \
			assert "torch" not in sys.modules and find_spec("torch") is None'); \
	done

lint: $(VENV)/.dev ## check style, spelling and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/.dev ## repair style where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test ## run lint and test

bench: $(VENV)/.agents ## run the benchmarks
	set -e; for name in unroll rules environments vector_environments actor_critic; do $(BIN)/python benchmarks/$$name.py; done

docs: $(VENV)/.docs ## build the site, fail at a dead link, and say how to open it (Python 3.11 or newer)
	$(BIN)/python docs/builder

docs-serve: $(VENV)/.docs ## serve the site at http://localhost:8000, and build it again at each change
	$(BIN)/python docs/builder --serve

dist: $(VENV)/.release ## build the source distribution and the wheel in dist/
	rm -rf dist
	$(RELEASE)/python -m build .
	$(RELEASE)/python -c '$(CHECK_WHEEL)' dist/*.whl
	$(RELEASE)/python -m twine check --strict dist/*

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info

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

# The tools of a release have an environment of their own.
$(VENV)/.release: $(VENV)/.python
	$(PYTHON) -m venv $(VENV)/release
	$(RELEASE)/python -m pip install --quiet 'build>=1.4' 'twine>=6.1'
	touch $@

$(VENV)/older/.done: $(VENV)/.python pyproject.toml constraints.txt constraints-integrations.txt
	$(PYTHON) -m venv $(VENV)/older
	grep -vE '^(gymnasium|filelock|python-dateutil)==' constraints.txt > $(VENV)/older/constraints.txt
	$(VENV)/older/bin/python -m pip install --quiet --constraint $(VENV)/older/constraints.txt \
		--constraint constraints-integrations.txt --editable '.[agents,test]' 'ray[rllib]' rl_zoo3 \
		'tianshou; python_version >= "3.11"'
	touch $@
