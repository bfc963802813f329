# `make demo` and `make test` need Python 3.11 or later and nothing else; the environment goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow sanitize fuzz-c lint setup clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "biprop needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	@echo "installing into .venv (PyTorch is large: this can take minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/biprop find

test: setup
	$(BIN)/python -m pytest

slow: setup
	$(BIN)/python -m pytest -m slow

# Wrong addresses and undefined behaviour in the core, by gcc; src/biprop/_core.so stays as it is.
sanitize: setup
	cmake -B build/sanitize -S . -DBIPROP_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitize --parallel
	BIPROP_CORE=$(CURDIR)/build/sanitize/_core.so \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	$(BIN)/python -m pytest -p no:faulthandler -p no:cacheprovider tests/test_kernels.py tests/test_c.py tests/test_native.py

# Programs at random, and mutants of them, against the C interface under the same sanitizers, for FUZZ_SECONDS.
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 0
fuzz-c: setup
	cmake -B build/sanitize -S . -DBIPROP_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitize --parallel --target fuzz_programs
	ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	build/sanitize/fuzz_programs $(FUZZ_SECONDS) $(FUZZ_SEED)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist
