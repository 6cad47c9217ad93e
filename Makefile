# make demo     install, then the whole journey: text → tokens → training → samples
# make test     install what the tests need, then run them all
# make test-twice    make test, but what fails is repeated, one at a time; not where the tests did not come to their end
# make faults   kill, damage and fill up, hundreds of times; make test does a tenth of it
# make soak     the server under load: 500 streams, 1,000 disconnects, 10,000 calls that make no sense; minutes
# make test-machines            the tests that depend on the machine, on nine that this one pretends to be
# make test-torch TORCH=2.11.0  the numerical tests with another torch, in an environment of its own
# make gpu PART=tests|step|decode|minutes   what a GPU shows; DRY=1 rehearses on a CPU, NANOGPT=DIR adds the peer
# make check    style, types, layers
# make lock     renew constraints.txt from what is installed and tested

PYTHON ?= python3
BIN    := .venv/bin
# --find-links and indexes are the user's own pip configuration; constraints pin versions, not origins.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Several at once: threads that wait for work must not keep others from theirs.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

NUMERICS := tests/losses tests/model tests/optim tests/training tests/batches tests/evaluation tests/inference \
            tests/checkpoint tests/exchange/test_eject.py tests/exchange/test_huggingface.py \
            tests/journey/test_compile.py tests/journey/test_train_and_resume.py tests/journey/test_accidents.py \
            tests/journey/parallel/test_together.py tests/journey/gpu

.PHONY: demo test test-twice test-machines test-torch gpu faults soak check lock clean

demo: .venv/.core
	$(BIN)/fledge demo

test: .venv/.dev
	$(PYTEST)

# Status 1 means that all tests were run and some failed. Any other would leave those out that were not run.
test-twice: .venv/.dev
	rm -f .pytest_cache/v/cache/lastfailed
	$(PYTEST) || { [ $$? -eq 1 ] && \
	    OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

test-machines: .venv/.dev
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/machines.py

TORCH ?= 2.11.0
OTHER := .venv-torch-$(TORCH)
test-torch:
	test -d $(OTHER) || $(PYTHON) -m venv $(OTHER)
	grep -v '^torch==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OTHER)/constraints.txt \
	    torch==$(TORCH) -e . hypothesis pytest pytest-randomly pytest-xdist transformers
	FLEDGE_GPU_DRY_RUN=1 OMP_WAIT_POLICY=PASSIVE $(OTHER)/bin/python -m pytest -n 2 $(NUMERICS)

# On a bare machine: nothing is installed, the Python that is there must have torch.
PART ?= tests
gpu:
	PYTHONPATH=src $(PYTHON) bench/gpu.py $(PART) $(if $(DRY),--dry-run) $(if $(NANOGPT),--nanogpt $(NANOGPT))

faults: .venv/.dev
	FLEDGE_FAULTS=whole $(PYTEST) tests/faults tests/journey/parallel/test_together.py

soak: .venv/.dev
	PYTHONPATH=src:tests/kit:bench OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/soak/soak_server.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: .venv/.dev
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

# A stamp says that an install is done: the second call is instant.
.venv/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fledge needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.core: .venv/.python pyproject.toml constraints.txt
	@echo "installing fledge and what it stands on (once; PyTorch is large)"
	$(PIP) -e .
	touch $@

.venv/.dev: .venv/.core
	@echo "installing what the tests need (once)"
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
