# `make demo` and `make test` need Python 3.11 or later and nothing else; the environment goes into .venv.
PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
# The package, and beside it what its developers need: two steps, so that `make demo` waits for the first only.
INSTALLED := .venv/installed
DEVELOPING := .venv/installed-dev
DOCUMENTING := .venv/installed-docs
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/* csrc/*/*)
# Tests run in one process a core (at most 8), of this many threads each.
OMP_NUM_THREADS ?= 1
PYTEST = OMP_NUM_THREADS=$(OMP_NUM_THREADS) $(BIN)/python -m pytest
# Seconds that `make fuzz` takes for each format.
SECONDS ?= 60
C_SOURCES := $(wildcard csrc/*.* csrc/*/*.* src/biprop/include/* src/biprop/examples/c/*.c tests/*.cpp benchmarks/*.c)
PARALLEL := --numprocesses=auto --maxprocesses=8 --dist=worksteal

.PHONY: demo test test-avx2 properties slow fuzz fuzz-c sanitize mutants readme docs wasm lint setup clean

define install
@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "biprop needs Python 3.11 or later: make PYTHON=python3.11 ...")'
@echo "installing into .venv (PyTorch is large: this can take minutes)"
@$(PYTHON) -m venv .venv
@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '$(1)'
endef

$(INSTALLED): $(SOURCES)
	$(call install,.)
	@touch $@

$(DEVELOPING): $(SOURCES)
	$(call install,.[dev])
	@touch $(INSTALLED) $@

$(DOCUMENTING): $(SOURCES)
	$(call install,.[docs])
	@touch $(INSTALLED) $@

setup: $(DEVELOPING)

demo: $(INSTALLED)
	$(BIN)/biprop find

test: setup
	$(PYTEST) $(PARALLEL)

# The same on a processor without AVX-512, as far as a newer one can tell: PyTorch, oneDNN, MKL and the compiled core are held to AVX2.
test-avx2: export ATEN_CPU_CAPABILITY = avx2
test-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
test-avx2: export MKL_ENABLE_INSTRUCTIONS = AVX2
test-avx2: export BIPROP_ISA = avx2
test-avx2: test

# Tests of properties with ten times as many examples, and others at every start.
properties: setup
	$(PYTEST) $(PARALLEL) --hypothesis-profile=search $(shell grep -l "^@given" tests/*.py)

slow: setup
	$(PYTEST) -m slow

# README.md shows what the program prints today.
readme: setup
	$(BIN)/python scripts/readme.py

# The documentation as web pages: docs/_build/index.html. Every warning of Sphinx is an error.
docs: $(DOCUMENTING)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs . docs/_build

# Mutated files, SECONDS for each format: make fuzz SECONDS=600
fuzz: setup
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS)

# Wrong addresses and undefined behaviour in the core, by gcc; src/biprop/_core.so stays as it is.
sanitize: setup
	cmake -B build/sanitize -S . -DBIPROP_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitize --parallel
	BIPROP_CORE=$(CURDIR)/build/sanitize/_core.so \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	$(BIN)/python -m pytest -p no:faulthandler -p no:cacheprovider tests/test_kernels.py tests/test_c.py tests/test_native.py

# Small faults in a copy of the package, one at a time: which test notices each.
mutants: setup
	$(BIN)/python benchmarks/mutants.py

# Programs at random, and mutants of them, against the C interface under the same sanitizers, for FUZZ_SECONDS.
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 0
fuzz-c: setup
	cmake -B build/sanitize -S . -DBIPROP_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build/sanitize --parallel --target fuzz_programs
	ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	build/sanitize/fuzz_programs $(FUZZ_SECONDS) $(FUZZ_SEED)

# The engine as WebAssembly, which biprop web puts into its pages, by emscripten 3.1 or later (apt-get install
# emscripten): once with SIMD instructions, and once without. An exception of C++ ends such a module.
EMXX ?= em++
WASM_CORE := csrc/instructions $(basename $(filter-out csrc/engine/kernels_%,$(wildcard csrc/engine/*.cpp)))
WASM_HEADERS := $(wildcard csrc/*.h csrc/engine/*.h src/biprop/include/*.h)
WASM_COMPILE = -std=c++17 -ffp-contract=off -fno-rtti -Isrc/biprop/include
WASM_LINK = -O2 --no-entry -sSTANDALONE_WASM -sWASM_BIGINT -sALLOW_MEMORY_GROWTH -sFILESYSTEM=0 -sMALLOC=emmalloc \
	-sEXPORTED_FUNCTIONS=_biprop_load,_biprop_shape,_biprop_run_u8,_biprop_run_f32,_malloc,_free
wasm: src/biprop/web/engine-simd.wasm src/biprop/web/engine-scalar.wasm

src/biprop/web/engine-simd.wasm: $(WASM_CORE:%=build/wasm/simd/%.o) build/wasm/simd/csrc/engine/kernels_wasm.o Makefile
	$(EMXX) -msimd128 $(filter %.o,$^) $(WASM_LINK) -o $@

src/biprop/web/engine-scalar.wasm: $(WASM_CORE:%=build/wasm/scalar/%.o) build/wasm/scalar/csrc/engine/kernels_scalar.o Makefile
	$(EMXX) $(filter %.o,$^) $(WASM_LINK) -o $@

# All but the kernels is small rather than fast: pages hold both modules.
WASM_SPEED := -Oz
build/wasm/simd/csrc/engine/kernels_wasm.o build/wasm/scalar/csrc/engine/kernels_scalar.o: WASM_SPEED := -O2

build/wasm/simd/%.o: %.cpp $(WASM_HEADERS)
	@mkdir -p $(@D)
	$(EMXX) $(WASM_COMPILE) $(WASM_SPEED) -msimd128 -DBIPROP_WASM -c $< -o $@

build/wasm/scalar/%.o: %.cpp $(WASM_HEADERS)
	@mkdir -p $(@D)
	$(EMXX) $(WASM_COMPILE) $(WASM_SPEED) -c $< -o $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

clean:
	rm -rf .venv build dist docs/_build
