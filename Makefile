PYTHON ?= python3
VENV := .venv
# A second environment in which saved models are loaded under transformers 4.57, without this package.
VENV4 := .venv-transformers-4
# A third one with timm and torchvision on top of the first: torchvision changes how images are prepared everywhere.
VENVT := .venv-timm
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Those that build documentation and packages, and try what was built.
VENVD := .venv-docs
VENVW := .venv-wheel

# A third one with the oldest transformers that pyproject.toml allows.
VENV_OLDEST := .venv-oldest
OLDEST := $(shell sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml).0

.PHONY: demo app test test-app test-slow test-exhaustive test-oldest quality format docs dist clean

demo: $(VENV)/bin/python  ## the whole road on embedded real images; both at a time, on one thread each
	$(INSTALL) ".[demo,plots]"
	$(VENV)/bin/optimum-cli snp demo --architecture deit --output demo-output/deit --overwrite & deit=$$!; \
	$(VENV)/bin/optimum-cli snp demo --architecture swin --output demo-output/swin --overwrite && wait $$deit

test: environment $(VENV4)/installed $(VENVT)/installed  ## all tests but the slow ones
	SNP_TRANSFORMERS_4_PYTHON=$(abspath $(VENV4))/bin/python $(VENV)/bin/python -m pytest -m "not slow" $(IN_TWO)
	$(VENVT)/bin/python -m pytest -p tests.torchvision_operators tests/families/test_timm.py

# Two processes, each file in one of them: its models are built once.
IN_TWO := --numprocesses 2 --dist loadfile

# What injects faults for minutes, and the contract of families at its full length, have a target of their own.
EXHAUSTIVE := tests/faults tests/folders tests/families tests/publishing/test_hub_faults.py

test-slow: environment $(VENV4)/installed  ## the slow tests
	SNP_TRANSFORMERS_4_PYTHON=$(abspath $(VENV4))/bin/python $(VENV)/bin/python -m pytest -m slow $(IN_TWO) \
		$(addprefix --ignore=,$(EXHAUSTIVE))

test-exhaustive: environment $(VENV4)/installed  ## kills, fuzzing and the whole contract of families
	SNP_TRANSFORMERS_4_PYTHON=$(abspath $(VENV4))/bin/python $(VENV)/bin/python -m pytest -m slow $(EXHAUSTIVE)

test-app: environment  ## code blocks of the docs, notebooks, and the app in a headless browser (chromedriver)
	$(INSTALL) ".[app,notebooks]" selenium tensorboard
	$(VENV)/bin/python -m pytest tests/app tests/docs tests/examples/test_notebooks.py

test-oldest: $(VENV_OLDEST)/installed  ## what rests on transformers, with the oldest version that is allowed
	$(VENV_OLDEST)/bin/python -m pytest -m "not slow" tests/data tests/families tests/models tests/training \
		tests/test_loading.py tests/test_pruner.py

quality: $(VENV)/bin/python  ## lint, format and types of the public API, without changing anything
	$(INSTALL) "ruff==0.17.6" "mypy==2.4.1"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENVD)/installed  ## the documentation as a folder that opens offline, site/; broken links and references fail
	$(VENVD)/bin/mkdocs build --strict

dist: $(VENVD)/installed  ## wheel and source archive, checked, and the wheel in a fresh environment
	rm -rf dist $(VENVW)
	$(VENVD)/bin/python -m build --outdir dist .
	$(VENVD)/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(VENVW)
	$(VENVW)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	$(VENVW)/bin/optimum-cli snp --version
	$(VENVW)/bin/optimum-cli snp prune --help > /dev/null

format: $(VENV)/bin/python
	$(INSTALL) "ruff==0.17.6"
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

app: $(VENV)/bin/python  ## the app in the browser
	$(INSTALL) ".[app]"
	$(VENV)/bin/optimum-cli snp app

# Not editable: the tests of the command line see what a wheel holds.
.PHONY: environment
environment: $(VENV)/bin/python
	$(INSTALL) ".[tests,demo,onnx,openvino,plots]"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV4)/installed:
	$(PYTHON) -m venv $(VENV4)
	$(VENV4)/bin/pip install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==4.57.6" pillow
	touch $@

$(VENV_OLDEST)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_OLDEST)
	sed "s/^transformers==.*/transformers==$(OLDEST)/" constraints.txt > $(VENV_OLDEST)/constraints.txt
	$(VENV_OLDEST)/bin/pip install --quiet --disable-pip-version-check \
		--constraint $(VENV_OLDEST)/constraints.txt ".[tests,demo,onnx,plots]"
	touch $@

$(VENVT)/installed: $(VENV)/bin/python
	$(PYTHON) -m venv $(VENVT)
	$(VENV)/bin/python -c "import site; print(site.getsitepackages()[0])" > "$$($(VENVT)/bin/python -c \
	    "import site; print(site.getsitepackages()[0])")/packages_of_the_first.pth"
	$(VENVT)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps timm torchvision
	touch $@

# The API pages are read from the sources, so that none of our dependencies is needed.
$(VENVD)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENVD)
	$(VENVD)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		$(shell sed -n 's/^docs = \[\(.*\)\]$$/\1/p' pyproject.toml | tr -d ',') build twine
	touch $@

clean:
	rm -rf $(VENV) $(VENV4) $(VENVT) $(VENV_OLDEST) $(VENVD) $(VENVW) demo-output build dist site *.egg-info
