# `make` sets up .venv and regenerates everything; `make test` sets up .venv and runs the tests.
# Another run: make CONFIG=config/reviews.yaml

PYTHON ?= python3.11
CONFIG ?= config.yaml
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# What a job, `python -m mixdpo STAGE`, needs: without it, it starts itself once more to have it.
export PYTHONHASHSEED := 0

.PHONY: all test
all: .venv/run
	snakemake --cores all --configfile $(CONFIG)

test: .venv/dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	pytest -n 2 -m "not slow"
	pytest -n 2 -m slow

.venv/run: pyproject.toml envs/constraints.txt
	$(PYTHON) -m venv .venv
	pip install --quiet --constraint envs/constraints.txt torch==2.13.0
	pip install --quiet --constraint envs/constraints.txt --editable .[workflow]
	touch $@

.venv/dev: .venv/run
	pip install --quiet --constraint envs/constraints.txt --editable .[dev]
	touch $@
