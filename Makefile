# Everything a fresh machine needs: Python 3.11 or newer, pip and make.
#   make run     start Loopledger with its own Postgres     make test   the whole suite
#   make check   format, lint, types, imports               make format rewrite what the formatter would
#   make docs    write docs/api.md again, from the routes
#   make lock    write the lock files again              make torture KILLS=100   crash tests under load
#   make bench   a short run of every benchmark; BENCH="ingest lag rebuild query" chooses, OPTIONS=... go to each
# VENV=dir puts the virtual environment elsewhere.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test check format docs lock torture bench clean
.DELETE_ON_ERROR:

run: $(VENV)/run.stamp
	@exec $(BIN)/loopledger serve

test: $(VENV)/dev.stamp
	@exec $(BIN)/python -m pytest --numprocesses auto

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/dev.stamp
	$(BIN)/python -m web.openapi > docs/api.md.new
	mv docs/api.md.new docs/api.md

# Kill things under load, then look whether anything acknowledged was lost: KILLS=1000 for a night. CROWD=1: amid a crowd
# of strangers, which nothing may be delayed or refused for.
KILLS ?= 100
torture: $(VENV)/dev.stamp
	@exec $(BIN)/python -m torture --kills $(KILLS) $(if $(CROWD),--crowd $(CROWD))

# Short benchmarks, about five minutes for the first three; `query` is another. An option of OPTIONS wins over these.
BENCH ?= ingest lag rebuild
BENCH_ingest := --seconds 3 --connections 16 64 --rounds 2
BENCH_lag := --seconds 10
BENCH_query := --events 200000 --cards 40000 --seconds 2 --rounds 1
BENCH_rebuild := --events 200000 --rounds 2 --library-events 5000
bench: $(VENV)/bench.stamp
	@set -e; $(foreach name,$(BENCH),$(BIN)/python -m benchmarks.$(name) $(BENCH_$(name)) $(OPTIONS);)

lock: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		pyproject.toml --group build -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		pyproject.toml --group build --group dev -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		pyproject.toml --group build --group dev --group bench -o requirements-bench.lock

clean:
	rm -rf $(VENV)

# Debian's python3 may come without ensurepip: pip then installs from outside the environment.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Loopledger needs Python 3.11 or newer; '$(PYTHON)' was not found (set PYTHON=...)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Loopledger needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V) (set PYTHON=...)." >&2; exit 1; }
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)

PIP = $$($(BIN)/python -m pip --version >/dev/null 2>&1 && echo '$(BIN)/python -m pip' || echo '$(PYTHON) -m pip --python $(BIN)/python')
INSTALL = $(PIP) --disable-pip-version-check install --quiet --require-hashes
INSTALL_SELF = $(PIP) --disable-pip-version-check install --quiet --no-build-isolation --no-deps --editable .

$(VENV)/run.stamp: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing what Loopledger needs (hash-checked, see requirements.lock)"
	@$(INSTALL) -r requirements.lock
	@$(INSTALL_SELF)
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "installing what developing Loopledger needs (hash-checked, see requirements-dev.lock)"
	@$(INSTALL) -r requirements-dev.lock
	@$(INSTALL_SELF)
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: requirements-bench.lock pyproject.toml | $(BIN)/python
	@echo "installing what the benchmarks of Loopledger need (hash-checked, see requirements-bench.lock)"
	@$(INSTALL) -r requirements-bench.lock
	@$(INSTALL_SELF)
	@touch $@ $(VENV)/dev.stamp $(VENV)/run.stamp
