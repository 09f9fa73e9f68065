# Everything there is to do with this repository. `make` alone lists it.
#
# One profile serves all of it (see [profile.release] in Cargo.toml), and one set of features (--workspace --all-targets):
# anything else would compile RocksDB, a quarter of an hour of C++, a second time.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN := $(TARGET_DIR)/release
MODULES := $(TARGET_DIR)/modules
WASM_TARGET := wasm32-unknown-unknown

# Seconds that `make bench` measures for.
SECONDS_MEASURED ?= 10

.PHONY: help
help: ## List what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  The first build takes 25 to 30 minutes on two cores, most of it RocksDB; later ones seconds to a minute."
	@echo "  CARGO_TARGET_DIR says where it goes (now: $(TARGET_DIR))."

.PHONY: demo
demo: build ## Three hosts, a chat, a killed leader, a swapped module; stays up until Ctrl-C
	@$(BIN)/demo

.PHONY: demo-check
demo-check: build ## The same, stops by itself; fails if anything was not as it must be
	@$(BIN)/demo --check

.PHONY: test
test: setup fmt-check lint build ## Formatting, lints, all tests (unit, scripts, whole clusters, documentation)
	$(CARGO) test --release --workspace

.PHONY: build
build: setup announce ## Everything: hosts, modules, tests
	$(CARGO) build --release --workspace --all-targets

.PHONY: bench
bench: build modules ## Load on a cluster of its own: one JSON line each for 64 clients, 1 client, a killed leader, idling
	@mkdir -p $(TARGET_DIR)/bench
	$(BIN)/telegraft bench --own-cluster --module $(MODULES)/chat.wasm --data $(TARGET_DIR)/bench --seconds $(SECONDS_MEASURED) --clients 64
	$(BIN)/telegraft bench --own-cluster --module $(MODULES)/chat.wasm --data $(TARGET_DIR)/bench --seconds $(SECONDS_MEASURED) --clients 1
	$(BIN)/telegraft bench --own-cluster --module $(MODULES)/chat.wasm --data $(TARGET_DIR)/bench --seconds $(SECONDS_MEASURED) --clients 64 --kill-leader
	$(BIN)/telegraft bench --own-cluster --module $(MODULES)/chat.wasm --data $(TARGET_DIR)/bench --idle $(SECONDS_MEASURED)

.PHONY: modules
modules: build ## Write chat.wasm and kv.wasm to a folder of files to upload
	@$(BIN)/telegraft-modules $(MODULES)
	@echo "They are in $(MODULES)."

.PHONY: raft-scripts
raft-scripts: setup ## Run interaction scripts against the consensus core: make raft-scripts SCRIPTS=DIR
	@test -n "$(SCRIPTS)" || { echo "Say where the scripts are: make raft-scripts SCRIPTS=DIR" >&2; exit 2; }
	$(CARGO) run --release -p telegraft-raft --example raft_scripts -- $(SCRIPTS)

# Without FIRST a fresh seed is drawn, and printed. MACHINE: wasm, plain. KEEP: numbers of the faults to keep.
SEEDS ?= 200
MACHINE ?= wasm
SIM = $(BIN)/telegraft-sim

.PHONY: sim
sim: setup announce ## Run whole nodes through worlds of faults: make sim SEEDS=200 [FIRST=SEED] [MACHINE=plain]
	@$(CARGO) build --release --workspace --bin telegraft-sim
	@$(SIM) run --seeds $(SEEDS) $(if $(FIRST),--first $(FIRST)) --machine $(MACHINE)

.PHONY: sim-replay
sim-replay: setup announce ## Run one world again and show every event: make sim-replay SEED=7 [KEEP=1,4] [MACHINE=plain]
	@test -n "$(SEED)" || { echo "Say which: make sim-replay SEED=7" >&2; exit 2; }
	@$(CARGO) build --release --workspace --bin telegraft-sim
	@$(SIM) replay --seed $(SEED) $(if $(KEEP),--keep $(KEEP)) $(if $(VOTERS),--voters $(VOTERS)) --machine $(MACHINE)

.PHONY: sim-speed
sim-speed: setup announce ## Simulated seconds a second on one core, with and without the Wasm guest
	@$(CARGO) build --release --workspace --bin telegraft-sim
	@$(SIM) speed

# Built with the switches that put known bugs back; only this program, which is never shipped.
.PHONY: sim-defects
sim-defects: setup announce ## Put known bugs back, one at a time; which checker finds each, after how many seeds
	@$(CARGO) build --release --workspace --bin telegraft-sim --features telegraft-sim/defects
	@$(SIM) defects $(if $(ONLY),--only $(ONLY))

.PHONY: lint
lint: setup announce ## Clippy; every warning is an error
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

.PHONY: fmt-check
fmt-check: setup
	$(CARGO) fmt --all --check

.PHONY: fmt
fmt: setup ## Format the code (the only command here that changes it)
	$(CARGO) fmt --all

.PHONY: announce
announce: setup
	@if ! ls -d $(BIN)/build/librocksdb-sys-*/out/librocksdb.a >/dev/null 2>&1; then \
	  echo "This is the first build in $(TARGET_DIR): it takes 25 to 30 minutes on two cores, 17 of them in librocksdb-sys alone,"; \
	  echo "and 5 GB of disk. Later builds find it there."; \
	fi

# What the build needs. Each step installs what is missing, or says exactly what to do.

.PHONY: setup
setup: setup-rust setup-wasm setup-cxx setup-libclang ## Install what the build needs, or name it

.PHONY: setup-rust
setup-rust:
	@command -v $(CARGO) >/dev/null || { \
	  echo "Rust is missing. Install rustup: https://rustup.rs" >&2; exit 1; }
	@if command -v rustup >/dev/null; then \
	  channel=$$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml); \
	  if ! rustup toolchain list | grep "^$$channel" >/dev/null; then \
	    echo "Installing Rust $$channel, which rust-toolchain.toml names."; \
	    rustup toolchain install "$$channel" --profile minimal --component clippy --component rustfmt; \
	  fi; \
	  for component in clippy rustfmt; do \
	    rustup component list --installed | grep "^$$component" >/dev/null || rustup component add $$component; \
	  done; \
	fi

.PHONY: setup-wasm
setup-wasm: setup-rust
	@if ! test -d "$$(rustc --print sysroot)/lib/rustlib/$(WASM_TARGET)"; then \
	  if command -v rustup >/dev/null; then \
	    echo "Adding the target $(WASM_TARGET), for which modules are built."; \
	    rustup target add $(WASM_TARGET); \
	  else \
	    echo "Rust's target $(WASM_TARGET) is missing, and there is no rustup to add it: install rustup (https://rustup.rs)," >&2; \
	    echo "or your distribution's package of Rust's standard library for $(WASM_TARGET)." >&2; exit 1; \
	  fi; \
	fi

# Installs packages where we may; else says what to type. Argument: what is missing, packages.
define install
  echo "$(1) is missing."; \
  if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
    echo "Installing $(2)."; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get install -y $(2) || { apt-get update && apt-get install -y $(2); }; \
  else \
    echo "Install it, on Debian and Ubuntu by" >&2; \
    echo "    sudo apt-get install -y $(2)" >&2; \
    echo "$(3)" >&2; exit 1; \
  fi
endef

.PHONY: setup-cxx
setup-cxx:
	@cxx="$${CXX:-c++}"; cc="$${CC:-cc}"; \
	if ! command -v "$${cxx%% *}" >/dev/null || ! command -v "$${cc%% *}" >/dev/null; then \
	  $(call install,A C++ compiler (for RocksDB) or a C compiler (for SQLite),g++ make,or name yours in CXX and CC.); \
	fi

# Where rocksdb's bindings look for it: LIBCLANG_PATH, the loader's cache, the folders of LLVM.
.PHONY: setup-libclang
setup-libclang:
	@found() { \
	  { test -n "$${LIBCLANG_PATH:-}" && { test -f "$$LIBCLANG_PATH" || ls "$$LIBCLANG_PATH"/libclang*.so* "$$LIBCLANG_PATH"/libclang.dylib; }; } \
	  || { PATH=$$PATH:/sbin:/usr/sbin ldconfig -p | grep -E 'libclang(-[0-9.]+)?\.so'; } \
	  || ls /usr/lib/llvm*/lib/libclang*.so* /usr/lib64/libclang*.so* /usr/local/lib/libclang*.so*; \
	}; \
	if ! found >/dev/null 2>&1; then \
	  $(call install,libclang (for the bindings to RocksDB),libclang-dev,or name the folder that holds libclang.so in LIBCLANG_PATH.); \
	fi
