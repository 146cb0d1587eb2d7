# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs into .venv, and no more.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The public surface, what users import and call, and the PTX machine.
TYPED := -p treadle.runtime -p treadle.cli -p treadle.torch -p treadle.codegen.ptxsim $(addprefix -m treadle.,errors settings dtypes api kernel check ir.program ir.scan ir.graph)
SOURCES := pyproject.toml setup.py constraints.txt

.PHONY: demo test test-long reliability gpu-kit lint clean

demo: .venv/demo.stamp
	$(BIN)/python demo.py

test: .venv/test.stamp
	$(BIN)/python -m pytest -n 2 -m "not long and not gpu"

# More random cases and slow promises; not part of CI.
test-long: .venv/test.stamp
	$(BIN)/python -m pytest -m "long and not gpu"
	$(BIN)/treadle check --target cpu --cases 300
	$(BIN)/treadle check --target emulate:sm_90a --cases 100
	$(BIN)/treadle check --target ptx:sm_90a --cases 20

# Measures the promises and writes docs/reliability.md.
reliability: .venv/test.stamp
	$(BIN)/python tests/reliability.py

# What a GPU machine without internet needs: kernels, an encoder, checks, timing and wheels, in one folder.
gpu-kit: .venv/kit.stamp
	$(BIN)/python -m gpu.pack

# mypy follows the package only where it is laid out as installed, so it reads a copy.
lint: .venv/test.stamp
	$(BIN)/ruff check .
	rm -rf build/typecheck && $(PIP) --no-deps --target build/typecheck .
	cd build/typecheck && ../../$(BIN)/mypy --config-file ../../pyproject.toml $(TYPED)

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "treadle needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo.stamp: .venv/python.stamp $(SOURCES)
	@echo "installing treadle[compiler,image,nvcc] and torch (first time: see README for sizes)"
	$(PIP) -e '.[compiler,image,nvcc]' torch==2.13.0
	touch $@

.venv/test.stamp: .venv/python.stamp $(SOURCES)
	@echo "installing treadle[test] (first time: see README for sizes)"
	$(PIP) -e '.[test]'
	touch $@

.venv/kit.stamp: .venv/python.stamp $(SOURCES)
	@echo "installing treadle[compiler,nvcc]: TVM and the CUDA compiler"
	$(PIP) -e '.[compiler,nvcc]'
	touch $@

clean:
	rm -rf .venv build demo-out gpu-kit *.egg-info
