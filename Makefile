# The two commands of a newcomer are `make demo` and `make test`; both set up what they need.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
NODE_FLAGS := --enable-source-maps

FUZZ_SECONDS ?= 60

.PHONY: setup demo test check bench fuzz docs clean help

help:
	@echo "make demo    set up, then stream three answers at once from Node"
	@echo "make test    set up, then run every test"
	@echo "make check   lint, types and unit tests: the fast loop"
	@echo "make bench   run the benchmarks in quick mode"
	@echo "make fuzz    fuzz the wire for FUZZ_SECONDS ($(FUZZ_SECONDS)) seconds"
	@echo "make docs    write docs/faults.md from the fault tests"
	@echo "make setup   only set up (.venv and bridge/node_modules)"

setup: $(VENV)/.ready bridge/dist/.ready
	@$(PY) -c 'from isthmus.engine.blas import HINT, interpose; b = interpose(); \
	print("BLAS:", b.name); b.name == "bundled" and print(HINT)'

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Isthmus needs Python 3.11 or newer: install it, or run make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

bridge/node_modules/.ready: bridge/package-lock.json bridge/package.json
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' \
		|| { echo "Isthmus needs Node 20.19 or newer"; exit 1; }
	cd bridge && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

bridge/dist/.ready: bridge/node_modules/.ready $(shell find bridge/src -name '*.ts') bridge/tsconfig.json
	cd bridge && npm run --silent build
	@touch $@

demo: setup
	@node $(NODE_FLAGS) bridge/examples/demo.mjs

test: setup lint
	$(PY) -m pytest -n auto --maxprocesses 4 tests/python tests/fuzz
	$(PY) -m pytest tests/contract tests/faults
	cd bridge && npx vitest run

check: setup lint
	$(PY) -m pytest -n auto --maxprocesses 4 tests/python
	cd bridge && npx vitest run ../tests/bridge

.PHONY: lint
lint: setup
	$(PY) -m ruff check python tests benchmarks
	$(PY) -m ruff format --check python tests benchmarks
	$(PY) -m mypy
	cd bridge && npm run --silent typecheck && npm run --silent lint

bench: setup
	$(PY) -m benchmarks.ipc_floor --quick
	$(PY) -m benchmarks.ops_batching --quick
	$(PY) -m benchmarks.fifty_questions --quick
	$(PY) -m benchmarks.streaming --quick
	$(PY) -m benchmarks.model_switch --quick
	$(PY) -m benchmarks.cache_states --quick
	$(PY) -m benchmarks.resilience --quick
	$(PY) -m benchmarks.soak --quick
	$(PY) -m benchmarks.peers --quick

fuzz: setup $(VENV)/.fuzz
	$(PY) -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

# atheris has wheels for Linux on x86-64 only; elsewhere nothing is installed.
$(VENV)/.fuzz: tests/fuzz/requirements.txt $(VENV)/.ready
	$(PY) -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r $<
	@touch $@

docs: setup
	$(PY) -m tests.faults.document

clean:
	rm -rf $(VENV) bridge/node_modules bridge/dist build/fuzz
