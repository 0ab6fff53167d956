# Two commands from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AUDIT := .venv-audit

export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint format bench docs docs-check audit clean

demo: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py

docs: $(STAMP)
	$(BIN)/python tools/make_docs.py

docs-check: $(STAMP)
	$(BIN)/python tools/make_docs.py --check

# pip-audit brings packages of its own, so it does not live beside those that it looks at.
audit: $(STAMP) $(AUDIT)/.installed
	$(AUDIT)/bin/python tools/audit.py $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(AUDIT) build *.egg-info
