# `make train` and `make test` set up everything they need: Python >= 3.11 and a package index suffice.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# A test process per core.
WORKERS ?= -n auto --dist worksteal
# The embedded digits need no network; naming any data, experiment or run to resume replaces them.
DEFAULT_DATA := $(if $(filter data=% experiment=% resume=%,$(ARGS)),,data=digits)

.PHONY: train test test-all gpu-check check docs docs-serve format setup dist clean
.DEFAULT_GOAL := train

train: $(INSTALLED)
	@$(VENV)/bin/python -m vae_exp.train $(DEFAULT_DATA) $(ARGS)

test: $(INSTALLED)
	@$(VENV)/bin/python -m pytest $(WORKERS) -m "not slow" $(ARGS)

test-all: $(INSTALLED)
	@$(VENV)/bin/python -m pytest $(WORKERS) $(ARGS)

# The tests that need CUDA, then the benchmark: ARGS="data=digits rounds=5" for a short one.
gpu-check: $(INSTALLED)
	@found=$$($(VENV)/bin/python -c 'import torch; print(torch.cuda.is_available())') || exit 1; \
	if [ "$$found" = True ]; then \
		status=0; \
		$(VENV)/bin/python -m pytest -m cuda || status=1; \
		$(VENV)/bin/python -m vae_exp.benchmark device=cuda $(ARGS) || status=1; \
		exit $$status; \
	else \
		echo "There is no CUDA device here: nothing to check."; \
	fi

check: $(INSTALLED)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

# The documentation as a site, into site/; a broken link, a page out of reach or a missing docstring ends it.
docs: $(INSTALLED)
	@$(VENV)/bin/python docs/build_site.py

docs-serve: $(INSTALLED)
	@$(VENV)/bin/zensical serve

format: $(INSTALLED)
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

setup: $(INSTALLED)

# The wheel, built from the sdist as users of the sdist would, and checks of both.
dist: $(INSTALLED)
	@rm -rf dist
	@$(VENV)/bin/python -m build --no-isolation
	@DIST=$(CURDIR)/dist $(VENV)/bin/python -m pytest tests/test_distribution.py tests/end_to_end/test_wheel.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vae_exp needs Python >= 3.11, and $(PYTHON) is " + sys.version.split()[0] + ": say make PYTHON=python3.12, for instance")'
	@echo "Installing the pinned packages into $(VENV): about 7 GB, a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist build site .cache
