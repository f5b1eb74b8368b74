# Every target sets itself up: the first one used creates .venv from requirements.lock, the others reuse it.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV_VERSION := 0.13.8

.DEFAULT_GOAL := help
.PHONY: help setup demo check quick test test-slow coverage docs lock clean status render report rehearse bench pipeline
.PHONY: overhead gpu figures fuzz grid-momentum grid-cascade grid-lr grid-modules grid-depth

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z%-]*:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create .venv with the locked versions (done once, by whichever target comes first)

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else "localsl needs Python 3.11 or 3.12, and $(PYTHON) is %d.%d: type make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) --require-hashes -r requirements.lock
	# A path entry, not an import hook: a script beside a clone in a folder named localsl finds the package too.
	$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	@touch $@

RULES := schedule.epochs=12 schedule.warmup_epochs=2 output_dir=outputs/demo

demo: setup ## train backpropagation and five local rules on the embedded digits and compare them, in 5 minutes
	$(PY) run.py -m method=bp,dgl,infopro,man,mlaan $(RULES)
	$(PY) run.py method=auglocal aux.depth=3 $(RULES)
	@echo; $(PY) run.py show=runs output_dir=outputs/demo

# What a table's sweep is given: PAPER=man for one paper, SCHEDULE=paper|short|smoke, DATASET=digits (or shapes) for the
# embedded images in every cell, DRY=1 to list the work and run nothing; anything else in ARGS.
PAPER :=
SCHEDULE := paper
DATASET :=
DRY :=
ARGS :=
SMOKE := $(if $(filter smoke,$(SCHEDULE)),dataset.train_subset=256 dataset.test_subset=256)
# The shapes have few images and a small network of their own.
OF_SHAPES := $(if $(filter shapes,$(DATASET)),backbone=resnet10 K=5)
CELLS := schedule=$(SCHEDULE) $(if $(DATASET),dataset=$(DATASET)) $(or $(OF_SHAPES),$(SMOKE)) $(ARGS)

table%: setup ## table1 to table13: run what the papers' tables need, and write results/<paper>/table1.csv
	$(PY) run.py -m sweep=$(if $(PAPER),$(PAPER)/)$@ $(CELLS) $(if $(DRY),show=jobs)

FIG = $(PY) run.py -m sweep=$(if $(PAPER),$(PAPER)/)$(1) $(CELLS) $(if $(DRY),show=jobs)

figures: setup ## the papers' figures, PAPER=man for one's: train what they need, and draw results/<paper>/figN.csv, .png
	$(call FIG,figures)

fig%: setup ## fig3 to fig7: one of them
	$(call FIG,$@)

# Grids of settings that no paper varies so; "best" is chosen on images held out of training.
GRID = $(PY) run.py -m sweep=ours/$(@:grid-%=%) $(CELLS) $(if $(DRY),show=jobs)

grid-momentum: setup ## momentum of MAN's layers, 10 runs; as all grids to results/ours, SCHEDULE, DATASET, DRY, ARGS as for tables
	$(GRID)

grid-cascade: setup ## length of MLAAN's cascades, 11 runs
	$(GRID)

grid-lr: setup ## learning rate of seven rules, 28 runs
	$(GRID)

grid-modules: setup ## number of modules from 2 to one a layer, five rules, 35 runs
	$(GRID)

grid-depth: setup ## depth of AugLocal's networks by number of modules, 20 runs
	$(GRID)

status: setup ## of every table, how many of its runs are done, running, failed, missing
	$(PY) run.py -m sweep=$(or $(PAPER),all) $(CELLS) show=status

render: setup ## write all tables anew from the records in results/runs, and figures from their CSVs; trains nothing
	$(PY) run.py -m sweep=$(or $(PAPER),all) $(CELLS) show=tables
	$(PY) run.py -m sweep=$(if $(PAPER),$(PAPER)/)figures show=figures

report: setup ## results/index.html: progress, all tables, figures and curves on one page
	$(PY) run.py -m sweep=all $(CELLS) show=report

# In a variable, since a comma inside $(or ...) separates its arguments.
EVERYTHING := all,figures,grids
PAPERS := $(PAPER),$(PAPER)/figures

rehearse: setup ## one training step and one evaluation of every cell on made-up images, into results/rehearsal.csv
	$(PY) run.py -m sweep=$(if $(PAPER),$(PAPERS),$(EVERYTHING)) $(if $(DATASET),dataset=$(DATASET)) $(ARGS) show=rehearsal

# What `make bench` times, unless ARGS says otherwise: the papers' batches on a GPU, small ones on a CPU.
BATCH = $(shell $(PY) -c 'import torch; print(1024 if torch.cuda.is_available() else 128)')
BENCH = measure=speed dataset=cifar10 backbone=resnet32 K=16 batch_size=$(BATCH) output_dir=outputs/bench $(ARGS)

BENCH_OF = dataset=cifar10 batch_size=$(BATCH) output_dir=outputs/pipeline $(ARGS)

bench: setup ## results/bench/<device>.csv: milliseconds a step of every rule beside backpropagation, in 6 minutes
	rm -rf outputs/bench/measured
	$(PY) run.py -m method=bp,predsim,dgl,infopro,man,man_released,mlaan,mlaan_released $(BENCH)
	$(PY) run.py -m method=auglocal aux.depth=3,6 $(BENCH)
	@echo; $(PY) run.py show=bench output_dir=outputs/bench

pipeline: setup ## results/ours/pipeline.csv, .png: what several devices could make of a step, by a model, in 5 minutes
	$(PY) run.py -m method=dgl,man backbone=resnet32 K=16 measure=pipeline $(BENCH_OF)
	$(PY) run.py -m method=auglocal aux.depth=3 backbone=resnet32 K=16 measure=pipeline $(BENCH_OF)
	$(PY) run.py method=dgl backbone=resnet110 K=55 measure=pipeline $(BENCH_OF)
	$(PY) run.py -m method=auglocal aux.depth=3 backbone=resnet110 K=55 measure=pipeline $(BENCH_OF)
	@echo; $(PY) run.py show=pipeline output_dir=outputs/pipeline

overhead: setup ## AugLocal's Table 7: how much longer than backpropagation's a step of its nine cells takes here
	$(PY) run.py -m sweep=auglocal/table7 measure=overhead batch_size=$(BATCH) $(ARGS)
	$(PY) run.py -m sweep=auglocal/table7 show=tables

# Where packages cannot be fetched: make gpu PY=python3, with what pyproject.toml lists importable by it. More of it,
# training too, by GPU="--stages train --seconds 470 --data data": docs/gpu.md.
GPU :=

gpu: $(if $(findstring $(VENV),$(PY)),setup) ## on a machine with a GPU: tests, peaks, speeds, in 5 minutes, into $OUT or results/bench
	$(PY) -m localsl.measure.gpu $(GPU)

check: setup ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

# One thread each: two processes of two threads on two cores mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/pytest

QUICK := core config/test_identity.py data/test_batches.py execution/test_graphs.py train/test_health.py \
	train/test_step.py test_structure.py

quick: setup ## the core's tests, in a minute
	$(PYTEST) -n 2 --dist loadgroup -m "not slow" $(QUICK:%=tests/%)

test: setup ## the fast tests
	$(PYTEST) -n 2 --dist loadgroup -m "not slow"

test-slow: setup ## the rest: whole runs, timing, real CIFAR-10 where it is found
	$(PYTEST) -n 2 --dist loadgroup -m "slow and not timing"
	$(PYTEST) -m timing

fuzz: setup ## half an hour: 500 random command lines, every rule killed and continued, one run killed fifty times
	LOCALSL_FUZZ=500 $(PYTEST) -n 2 -m "" tests/cli/test_fuzz.py tests/runs/test_checkpoint.py

coverage: setup ## the fast tests, and the lines of each file that they do not run; no threshold
	$(PYTEST) -n 2 --dist loadgroup -m "not slow" --cov=localsl --cov-report=term-missing:skip-covered

docs: setup ## the documentation's site, with an API reference, in site/; every warning is an error
	$(PY) -m sphinx -q -W --keep-going -E -b html -c docs -d build/doctrees . site
	@echo "site/index.html"

lock: setup ## pin the newest allowed versions, with hashes, into requirements.lock
	$(PY) -m uv pip compile pyproject.toml --group dev --group docs --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean: ## remove .venv and caches; runs in outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info build site
