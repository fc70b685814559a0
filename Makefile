# Two commands: `make demo` and `make test`. `make PYTHON=python3.12 demo` chooses the interpreter.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
# By path and not by import hook: a folder called pyro_omics in the working folder must not hide the package.
EDITABLE := --config-settings editable_mode=compat
PIP := $(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Threads that wait asleep: spinning ones slow a small fit tenfold as soon as another process uses a core.
export OMP_WAIT_POLICY ?= PASSIVE
# One stamp for each interpreter version, so that another PYTHON makes a new environment.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
BASE := $(VENV)/.base-$(VERSION)
DEV := $(VENV)/.dev-$(VERSION)
# Processes that the tests run in; `make test WORKERS=8` takes more, WORKERS=0 none beside pytest itself.
WORKERS ?= 2
# All tests of a file in one process, or each would make the file's fixtures; in the order of the files, which has the
# long ones (test_matrix.py, testing/) side by side at the end.
BY_FILE := --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint trace notebooks bench clean

demo: $(BASE)
	$(RUN)/pyro-omics fit --config configs/scvi_pbmc68k.yaml

test: $(DEV)
	$(RUN)/python -m pytest -n $(WORKERS) $(BY_FILE)

lint: $(DEV)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# The files and calls of the package that a training step and a posterior query pass through.
trace: $(DEV)
	$(RUN)/python -m pytest -q -s tests/inference/test_path.py

notebooks: $(DEV)
	$(RUN)/python -m pytest --nbmake --nbmake-timeout=900 notebooks

# On an idle machine; threads that wait awake are faster there.
bench: $(DEV) .rivals/.made .rivals-cellarium/.made
	env -u OMP_WAIT_POLICY $(RUN)/python benchmarks/bench.py --rival .rivals/bin/python \
		--cellarium .rivals-cellarium/bin/python

.rivals/.made: constraints.txt
	$(PYTHON) -m venv --clear .rivals
	.rivals/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== constraints.txt)" scvi-tools==1.4.2
	@touch $@

# In an environment of its own: it wants an older Lightning.
.rivals-cellarium/.made: constraints.txt
	$(PYTHON) -m venv --clear .rivals-cellarium
	.rivals-cellarium/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== constraints.txt)" cellarium-ml==0.0.15
	@touch $@

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is %s: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "Installing into $(VENV) (docs/install.md says how much; a few minutes)"
	$(PIP) -e . $(EDITABLE)
	@touch $@

$(DEV): $(BASE)
	$(PIP) -e ".[dev]" $(EDITABLE)
	@touch $@

clean:
	rm -rf $(VENV) .rivals .rivals-cellarium runs build dist *.egg-info
