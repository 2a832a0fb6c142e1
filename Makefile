# vidneg. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# No function of make that works on file names here: they take a space for the end of a name. Recipes read "$$VENV".
VENV ?= .venv
override VENV := $(if $(filter /%,$(firstword $(VENV))),$(VENV),$(CURDIR)/$(VENV))
export VENV
export PATH := $(VENV)/bin:$(PATH)
# Notebooks, DVC stages and tests import this checkout, whichever one the environment was made for.
export PYTHONPATH := $(CURDIR)
# One thread per process: on a busy two-core machine two threads were seen 40 times slower than one.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export TOKENIZERS_PARALLELISM := false
export JUPYTER_PLATFORM_DIRS := 1

# Only root has to be asked whether a server may run as root.
ROOT := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: help .venv lock reproduce rehearsal dvc test check rules types wheel lab export clean-notebooks readme bench bench-memory bench-shards faults gpu-record archive docs recipes

help: ## list the targets
	@sed -nE 's/^([a-z.-]+):[^#]*## /\1\t/p' Makefile | awk -F'\t' '{printf "make %-16s %s\n", $$1, $$2}'

# Made anew only when the lock file differs from the one that it was made from.
.venv: ## the Python environment, from requirements.lock
	@if ! cmp -s requirements.lock "$$VENV/requirements.lock" || ! [ -x "$$VENV/bin/python" ]; then .ci/venv "$$VENV"; fi

lock: .venv ## requirements.lock from pyproject.toml; versions that are there stay unless they no longer fit
	@uv pip compile pyproject.toml --extra dev --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
	  --generate-hashes --no-emit-package torch --no-annotate --no-header --quiet --output-file requirements.lock

# Quoted through the environment, so that a path may hold anything.
export SCALE DATA LIKE
reproduce: .venv ## every table and figure; SCALE=smoke|gpu|paper in scales/SCALE, DATA=/a/folder on your own clips
	@python -m vidneg.pipeline.scales reproduce --scale "$$SCALE" --data "$$DATA" --like "$${LIKE:-laptop}"

rehearsal: .venv ## the scale paper in minutes, on files of the forms that users have: does every stage run?
	@python tests/rehearsal/run.py

dvc: .venv ## dvc.yaml, from what the stages' notebooks say and import
	@python -m vidneg.pipeline.dvc

test: rules ## everything but types, the wheel and whole reproductions: house rules, notebooks, pytest
	@python tests/notebooks.py
	@python -m pytest -q -n auto tests --ignore tests/test_house.py

check: rules ## in a minute: house rules, the changed notebooks, the quick tests of what changed
	@python tests/notebooks.py --changed
	@files=$$(python tests/changed.py); [ -z "$$files" ] || python -m pytest -q -n auto -m "not slow" $$files

rules: .venv ## ruff, typos; do modules, dvc.yaml and README match their notebooks?
	@ruff check -q nbs tests bench
	@typos
	@python -m vidneg.pipeline.dvc --check
	@python -m pytest -q -n auto tests/test_house.py
	@python -m vidneg.pipeline.readme --check

types: .venv ## the type checker, in its basic mode
	@basedpyright

wheel: .venv ## the wheel, alone in an empty environment
	@.ci/wheel

lab: .venv ## JupyterLab; notebooks are cleaned as they are saved. VIDNEG_SCALE=smoke: stages of that scale
	@jupyter lab $(ROOT) --ContentsManager.pre_save_hook=vidneg.pipeline.stage.clean_on_save

export: .venv ## notebooks to modules
	@python -m vidneg.pipeline.export

clean-notebooks: .venv ## strip what does not belong in git from the notebooks
	@nbdev_clean

docs: .venv ## the documentation's site in dist/docs, from the notebooks and docstrings; needs no network
	@python -m vidneg.pipeline.docs

readme: .venv ## README.md from nbs/index.ipynb
	@python -m vidneg.pipeline.readme

recipes: .venv ## the papers' recipes beside ours, and what the scale paper costs: reports/recipes.md, paper-forecast.md
	@python -m vidneg.pipeline.recipes
	@python -m vidneg.pipeline.forecast

bench: .venv ## speeds on this machine
	@python bench/bench.py

bench-memory: .venv ## peak memory of the functions that stream captions, at 10,000 and at many more
	@python bench/memory.py

bench-shards: .venv ## scoring by shards beside a plain loop over transformers: speed, peak memory, a kill
	@python bench/shards.py

faults: .venv ## the table of faults: kills, damaged videos, full disks, hostile input, failing servers
	@python tests/faults/report.py

gpu-record: .venv ## after `make reproduce SCALE=gpu`: speed, memory and repeatability on this GPU
	@python bench/gpu.py

export WITHOUT
archive: .venv ## reports and weights of a SCALE in one file for others; WITHOUT="data/frames data/features.npy"
	@python -m vidneg.pipeline.archive --scale "$$SCALE" --without "$$WITHOUT"
