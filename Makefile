# make book · make test · make lab · make bench · make export · make clean
# Another Python:              make book PYTHON=python3.12
# Another build of torch:      make book PIP_EXTRA_INDEX_URL=… (PyTorch's own page names the index of its CPU-only build)
SHELL := /bin/bash
.DEFAULT_GOAL := help

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10 python
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python
CLI := $(VENV)/bin/nvs-book
ifdef PIP_EXTRA_INDEX_URL
export PIP_EXTRA_INDEX_URL
endif

.PHONY: help install book site save test lab bench export readme lint clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /	/' | expand -t 12

install: $(STAMP)  ## make .venv and install the package with all its extras, in the versions that were tried

$(STAMP): settings.ini constraints.txt setup.py pyproject.toml
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || { \
	  echo "nvs_book needs Python 3.10 to 3.13; found $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." >&2; \
	  echo "Name one that is installed: make $(or $(MAKECMDGOALS),book) PYTHON=python3.12" >&2; exit 1; }
	@[ ! -x $(RUN) ] || $(RUN) -c '$(SUPPORTED)' || rm -rf $(VENV)
	@[ -x $(RUN) ] || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); } || { \
	  echo "Python has no venv module here; on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	@echo "installing nvs_book and what it needs into $(VENV) (once; a few minutes)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $(STAMP)

book: $(STAMP)  ## run every chapter, print the table of results, write _site/index.html (ARGS="--scale small 10")
	@$(CLI) book $(ARGS)

site: $(STAMP)  ## only write _site/, of the outputs that nbs/ holds
	@$(CLI) book --no-run $(ARGS)

save: $(STAMP)  ## run as `book` does, and store the outputs in nbs/ and the results in README.md
	@$(CLI) book --save $(ARGS)

readme: $(STAMP)  ## write the results that nbs/ holds into README.md, without running anything
	@$(CLI) book --readme

test: $(STAMP)  ## the whole test suite
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest -n $${JOBS:-2} --dist loadfile $(ARGS)

lab: $(STAMP)  ## JupyterLab on the student's copy, in student/: stubs to fill in, your work is never touched (ARGS=--source for nbs/)
	@$(CLI) lab $(ARGS)

bench: $(STAMP)  ## every benchmark, with its ratio to a named peer
	@$(CLI) bench $(ARGS)

export: $(STAMP)  ## nbs/ -> nvs_book/, then clean the notebooks
	@$(VENV)/bin/nbdev_export
	@$(VENV)/bin/nbdev_clean

lint: $(STAMP)  ## ruff on the notebooks, the package, the tests
	@$(RUN) -m ruff check .

clean:  ## remove what was built; .venv stays
	@rm -rf _site _build build dist nvs_book.egg-info .pytest_cache .hypothesis .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
