# The same commands for developers and CI. Each target installs what it needs first.

SHELL := /bin/bash
export NO_MKDOCS_2_WARNING := 1
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-clusters test-all test-pythons test-lowest check docs bench clusters-up clusters-down hooks clean

BIN := .venv/bin
PY := $(BIN)/python
DEMO := results/digits
SYSTEMS := slurm sge htcondor pbs
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
# Tests mostly wait, so run twice as many at once as there are CPUs. WORKERS=0 runs them in one process.
WORKERS := $(shell echo $$(( 2 * $$(nproc) )))
# Compiled first: with PYTHONDONTWRITEBYTECODE, each of the many programs that tests start would compile again.
# Fail at once if a test process dies: pytest-xdist 3.8 would start another one, and wait forever at the end.
PYTEST = $(PY) -m compileall -q amlsched tests && $(PY) -m pytest -n $(WORKERS) --max-worker-restart=0
# Other Pythons, on which a short form of the tests runs.
PYTHONS := 3.12 3.13
MKDOCS := $(PY) -m mkdocs build --strict # not --quiet, which would hide the warnings from --strict

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environments; reinstalled only if one of these files has changed.
.venv/.ready-demo: pyproject.toml scripts/bootstrap
	@scripts/bootstrap .venv demo && touch $@
.venv/.ready-test: pyproject.toml scripts/bootstrap
	@scripts/bootstrap .venv test && touch $@ .venv/.ready-demo
.venv/.ready-dev: pyproject.toml scripts/bootstrap
	@scripts/bootstrap .venv dev && touch $@ .venv/.ready-test .venv/.ready-demo
.venv-bench/.ready: pyproject.toml scripts/bootstrap benchmarks/requirements.txt
	@scripts/bootstrap .venv-bench results,loky,dask -r benchmarks/requirements.txt && touch $@

demo: .venv/.ready-demo ## Train on the digits of scikit-learn, show the table, draw the learning curves
	@$(BIN)/amlsched run examples/digits/digits.py:Digits examples/digits/digits.yml --executor processes --max-workers 2
	@$(BIN)/amlsched best $(DEMO) --metric accuracy
	@$(BIN)/amlsched plot $(DEMO) --metric accuracy --out $(DEMO)/curves.png
	@echo "Show the results: $(BIN)/amlsched results $(DEMO)    Run again: make demo (all repetitions are already done)"

test: .venv/.ready-test ## Run the tests that need no batch system; ARGS="-k name" selects some
	@$(PYTEST) -m "not slurm and not sge and not htcondor and not pbs" $(ARGS)

test-clusters: .venv/.ready-test ## Run the tests of batch systems, after make clusters-up
	@for system in $(SYSTEMS); do tests/clusters/systems/$$system.sh status </dev/null >/dev/null 2>&1 || \
		{ echo "$$system is not up: make clusters-up SYSTEMS=$$system" >&2; exit 1; }; done
	@$(PYTEST) -m "$(subst $(SPACE), or ,$(strip $(SYSTEMS)))" $(ARGS)

test-all: test test-clusters ## Run both

test-pythons: ## Run a short form of the tests on other Pythons that are here; PYTHONS="3.13" runs a part
	@scripts/test-pythons $(PYTHONS)

test-lowest: ## Run the same with the lowest versions of packages that pyproject.toml allows
	@scripts/test-pythons lowest

check: .venv/.ready-dev ## Lint, format, types, layers and docs, without running a test
	@echo "ruff check";   $(PY) -m ruff check --quiet .
	@echo "ruff format";  $(PY) -m ruff format --quiet --check . || { $(PY) -m ruff format --check . | head -20; exit 1; }
	@echo "mypy";         $(PY) -m mypy --no-error-summary
	@echo "pyright";      PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --level error >.venv/pyright.log 2>&1 || { cat .venv/pyright.log; exit 1; }
	@echo "import-linter"; $(BIN)/lint-imports --no-cache >.venv/layers.log 2>&1 || { cat .venv/layers.log; exit 1; }
	@echo "mkdocs";       $(MKDOCS) >.venv/mkdocs.log 2>&1 || { cat .venv/mkdocs.log; exit 1; }
	@echo "make check: passed"

docs: .venv/.ready-dev ## Build the documentation into site/
	@$(MKDOCS) >.venv/mkdocs.log 2>&1 || { cat .venv/mkdocs.log; exit 1; }
	@echo "Documentation: site/index.html"

bench: .venv-bench/.ready ## Run the benchmarks, as ratios to other tools; ARGS="threads --rounds 7" selects some
	@.venv-bench/bin/python -m benchmarks $(ARGS)

clusters-up: ## Start real batch systems on this host (root on Debian 12); SYSTEMS="slurm" selects some
	@for system in $(SYSTEMS); do tests/clusters/systems/$$system.sh up </dev/null && echo "$$system is up" || exit 1; done

clusters-down: ## Stop them and their jobs; installed packages remain
	@for system in $(SYSTEMS); do tests/clusters/systems/$$system.sh down </dev/null && echo "$$system is down" || exit 1; done

hooks: .venv/.ready-dev ## Run the linters before each commit
	@$(BIN)/pre-commit install

clean: ## Remove everything created by the targets: environments, caches, site, the demo's results
	@rm -rf .venv .venv-* build dist site $(DEMO) .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
