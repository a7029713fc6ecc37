# make demo, make test: all that a fresh machine with Python >= 3.11 needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all bench-data bench-tokens bench-gpu lint schemas lock

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.lock: envs/requirements.lock envs/bootstrap.sh
	@envs/bootstrap.sh

demo: .venv/.lock ## Build the demo recipe on the CPU, from drawn screens to a report.
	@snakemake --profile profiles/local all
	@shardline open demo

test: .venv/.lock ## The fast tests: all that is not marked slow, slurm or gpu.
	@pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not slurm and not gpu" $(PYTEST)

test-all: .venv/.lock ## Every test that this machine can run.
	@pytest -n auto --maxprocesses 4 --dist worksteal $(PYTEST)

bench-data: .venv/.lock ## How fast images are audited and scored and rows converted; about 6 minutes.
	@PYTHONPATH=scripts python bench/data.py

bench-tokens: .venv/.lock ## How fast samples are counted, tokenised, planned and loaded; about 7 minutes.
	@PYTHONPATH=scripts python bench/tokens.py

bench-gpu: .venv/.lock ## How fast Qwen2-VL-2B trains on one GPU, against stock steps; 10 minutes.
	@PYTHONPATH=scripts python bench/gpu.py $(BENCH)

lint: .venv/.lock ## ruff, snakefmt and snakemake's own lint.
	@ruff check . && ruff format --check . && snakefmt --check Snakefile rules && snakemake --lint

schemas: .venv/.lock ## Write the JSON schema of the config for editors.
	@PYTHONPATH=scripts python -m shardline.config.schemas

lock: ## Pin the packages of envs/requirements.in anew.
	@uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --no-annotate --upgrade envs/requirements.in -o envs/requirements.lock
