VENV ?= .venv
PY := $(VENV)/bin/python
THREADS ?= $(shell nproc)

.PHONY: setup test demo lint clean

# Create .venv on first use; reinstall if the dependencies change.
$(VENV)/.stamp: pyproject.toml
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install --quiet -e ".[dev,art]"
	touch $@

setup: $(VENV)/.stamp

lint: setup
	$(PY) -m ruff check src tests tools benchmarks examples pretrain
	$(PY) -m ruff format --check src tests tools benchmarks examples pretrain
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(THREADS) -m "not network and not slow"

demo: setup
	$(PY) -m clipalign demo

clean:
	rm -rf $(VENV) build dist
