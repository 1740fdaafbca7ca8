# make demo and make test set everything up by themselves, in .venv; nothing has to be installed by hand.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= demo-output
PYTEST_ARGS ?= -n auto --dist loadfile
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

.PHONY: setup demo test test-engines test-gpu check types docs clean

setup: $(VENV)/.ready

# uv, itself from the package index, installs in a fraction of the time of pip and hard-links later environments. Compiled
# bytecode halves the start of every process where none may be written (containers, read-only homes).
$(VENV)/.ready: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not ((3, 11) <= v < (3, 14)) and f"make: $(PYTHON) is Python {v[0]}.{v[1]}; expected 3.11 to 3.13: make PYTHON=python3.11 ...")'
	@echo "make: installing captionbeam and what its tests need into $(VENV); this takes a minute, or several where machine or network is slow"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1" "setuptools>=75"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-build-isolation-package captionbeam -e ".[test]"
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/captionbeam demo --output $(DEMO)

# The quick suite: unit tests, each command in process, one kill -9.
test: setup
	$(PYTEST) $(PYTEST_ARGS) -m "not engines and not gpu"

# Whatever starts a cluster, an emulator, a server or a container, and the long fault trials. Two files at a time, since
# much of it is waiting. What they need is fetched once, into ~/.cache.
test-engines: setup
	$(PYTEST) -n 2 --dist loadfile -m engines

# What only a CUDA device shows, with a table of figures at its end. It needs neither Beam nor the settings of the other
# tests: make test-gpu BIN=FOLDER installs nothing, but takes FOLDER/python and the packages that it has.
test-gpu: $(if $(filter $(VENV)/bin,$(BIN)),setup) types
	PYTHONPATH="$(CURDIR)/build/types" $(BIN)/python -m pytest --confcutdir=tests/gpu -m gpu tests/gpu

# The same in CI and by hand: style, types, which package may import which, and every import declared in setup.py.
check: setup types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py tests/test_dependencies.py

# A folder in which the four packages lie below captionbeam, for programs that read sources without importing them.
types:
	@mkdir -p build/types/captionbeam
	@for name in schemas capmodel pipelines jobs; do ln -sfn ../../../$$name build/types/captionbeam/$$name; done
	@ln -sfn ../../../jobs/toplevel/__init__.py build/types/captionbeam/__init__.py

# The site is build/site/index.html. It is built without the network, and a warning is an error.
docs: setup types
	$(BIN)/python docs/pages.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache
