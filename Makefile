# Two commands matter: `make demo` and `make test`. Each creates .venv and installs what it needs; the second time is instant.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip -qq --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt
# Groups and their order are those of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test exhaustive fast check lint types install install-dev clean

demo: $(VENV)/.installed
	$(RUN)/nas demo $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not exhaustive" $(ARGS)

exhaustive: $(VENV)/.installed-dev
	$(PYTEST) -m exhaustive $(ARGS)

fast: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not exhaustive" $(ARGS)

check: lint types test

lint: $(VENV)/.installed-dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(RUN)/mypy

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.created:
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The build for processors alone is a tenth of the size of the default one; the index of this machine may not have it.
$(VENV)/.torch: $(VENV)/.created constraints.txt
	@echo "Installing torch (once)"
	@version=$$(sed -n 's/^torch==//p' constraints.txt); \
	$(PIP) install -c constraints.txt "torch==$$version+cpu" 2>/dev/null || $(PIP) install -c constraints.txt "torch==$$version"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch $(INPUTS)
	@echo "Installing supersieve and what it needs (once)"
	@$(PIP) install -c constraints.txt -e ".[openvino]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed $(INPUTS)
	@echo "Installing the tools of the tests (once)"
	@$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
