# Needs Python 3.11 or newer and make, nothing else. The first target that is asked for installs into .venv.
PYTHON ?= python3
BIN := .venv/bin
NCOGYM := $(BIN)/ncogym
OUT ?= out

.PHONY: help install demo test check fuzz results peers clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile | expand -t 10

install: .venv/.installed  ## install into .venv; done by the other targets when needed

demo: install  ## solve a file of each problem, then compare the policy with classical solvers (about two minutes)
	mkdir -p $(OUT)/demo
	for file in "atsp nodes 30 atsp" "cvrp customers 30 vrp" "knapsack items 100 kp" "jssp jobs 10 jsp"; do \
	  set -- $$file; \
	  $(NCOGYM) generate --env $$1 --env.num_$$2 $$3 --instances 1 --seed 1 --output $(OUT)/demo/$$1.$$4 || exit; \
	done
	$(NCOGYM) solve ncogym/data/capitals.tsp $(OUT)/demo/atsp.atsp $(OUT)/demo/cvrp.vrp $(OUT)/demo/knapsack.kp \
	  $(OUT)/demo/jssp.jsp --seconds 4 --output $(OUT)/demo
	$(NCOGYM) evaluate --env tsp --env.num_nodes 50 --instances 64 --seed 1234 --seconds 0.5 \
	  --solvers multistart+symmetry,greedy,farthest-insertion,two-opt,ortools,fast-tsp --reference fast-tsp \
	  --output $(OUT)/demo

test: check  ## everything that must pass: check, then the tests
	@$(BIN)/python -m pytest

check: install  ## lint, format, types and the rooms: who may import whom
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_rooms.py

fuzz: install  ## 100,000 damaged files against all that reads files: only documented errors, time, memory (20 minutes)
	PYTHONPATH=tests $(BIN)/python -m fuzz --cases 100000 --workers 2 --output $(OUT)/fuzz

results: install  ## measure again what docs/results.md tells, and write it there (over two hours)
	$(BIN)/python experiments/results.py --output $(OUT)/results

peers: install  ## random steps, training and decoding against rl4co 0.7.0 (an hour; installs 1.4 GB of its own)
	$(BIN)/python benchmarks/peers/run.py --output $(OUT)/peers
	$(BIN)/python benchmarks/peers/policies.py --output $(OUT)/peers

clean:  ## remove what the targets wrote, but neither .venv nor runs
	rm -rf $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find ncogym tests benchmarks experiments -name __pycache__ -prune -exec rm -rf {} +

# A Python that has a PyTorch with a working GPU lends it to .venv, and that version is kept; any other gets the pinned
# PyTorch. It is asked for by itself and first, so that no other package's range picks a larger build.
GPU_TORCH := import sys, torch; sys.exit(not torch.cuda.is_available() or torch.__version__ < "2.9")

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is, as in: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv, once (a few minutes) ..."
	@test -x $(BIN)/python || \
	  $(PYTHON) -m venv $$($(PYTHON) -c '$(GPU_TORCH)' 2>/dev/null && echo --system-site-packages) .venv
	@if grep -q 'system-site-packages = true' .venv/pyvenv.cfg; then \
	  torch=$$($(BIN)/python -c 'import torch; print(f"torch=={torch.__version__}")') && \
	  sed -e "s/^torch==.*/$$torch/" -e "/^triton==/d" constraints.txt > .venv/constraints.txt; \
	else \
	  cp constraints.txt .venv/constraints.txt && \
	  $(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"; \
	fi
	@PIP_CONSTRAINT=.venv/constraints.txt $(BIN)/python -m pip install --quiet --editable '.[solvers,graph,gym,dev]'
	@touch $@
