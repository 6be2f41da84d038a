# Quantix: every common task. `make help` lists them; the README says what to start with.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
TRIPLE     := x86_64-unknown-linux-gnu
VMM        := $(TARGET_DIR)/vmm/quantix-vmm
NODE       := $(TARGET_DIR)/debug/quantix-node
QX         := $(TARGET_DIR)/debug/qx
BENCH      := $(TARGET_DIR)/$(TRIPLE)/release/quantix-bench
PAYLOAD    := $(CURDIR)/tests/payload/target/$(TRIPLE)/release/quantix-payload

# Debian packages, each with its reason in tests/README.md.
PACKAGES := acpica-tools btrfs-progs build-essential busybox-static ca-certificates clang cpio curl dnsmasq-base e2fsprogs iperf3 iproute2 \
            kmod lz4 mmdebstrap mold nftables python3-venv qemu-system-common qemu-system-x86 qemu-utils shellcheck strace

export CARGO_TARGET_DIR := $(TARGET_DIR)

.PHONY: help setup build demo demo-node test test-native test-lab test-node lint bench bench-vmm bench-node fuzz-sample \
        fuzz-long clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## installs what building and testing need (Debian or Ubuntu, as root; does nothing the second time)
	@.ci/setup $(PACKAGES)
	@.ci/venv >/dev/null

build: setup ## builds the VMM as it ships, the guest payload, the lab, and the node daemon with qx (unoptimised)
	@# Without `--target`, proc macros would be linked statically too, which rustc refuses.
	@cargo build --quiet --profile vmm --target $(TRIPLE) --config vmm/static.toml -p quantix-vmm
	@install -D $(TARGET_DIR)/$(TRIPLE)/vmm/quantix-vmm $(VMM)
	@cd tests/payload && env -u CARGO_TARGET_DIR cargo build --quiet --release
	@cargo build --quiet -p quantix-lab -p quantix-bench -p quantix-node -p quantix-cli
	@echo "built: $(VMM) $(NODE) $(QX)"

demo: build ## an unmodified Debian kernel in quantix-vmm, shown at work: disk, ping, vsock
	@$(TARGET_DIR)/debug/lab demo-vmm --vmm $(VMM)

demo-node: build ## a node daemon, and on it a Debian server with cloud-init, made by qx (not seen passing as a whole yet)
	@$(TARGET_DIR)/debug/lab demo --node $(NODE) --qx $(QX) --vmm $(VMM)

test: build ## every test: unit, sandbox, native KVM, lab, fuzz targets; says what it could not run and why
	@.ci/test "$(VMM)" "$(PAYLOAD)"

test-native: build ## whole-stack cases on this host's own KVM, with the payload
	@QUANTIX_VMM=$(VMM) QUANTIX_PAYLOAD=$(PAYLOAD) cargo nextest run -p quantix-e2e --no-fail-fast -E 'binary(native)'

test-node: build ## whole-stack cases of the node daemon, in the lab
	@QUANTIX_VMM=$(VMM) cargo nextest run -p quantix-e2e --no-fail-fast -E 'binary(node)'

test-lab: build ## whole-stack cases with Debian guests, in the lab
	@QUANTIX_VMM=$(VMM) cargo nextest run -p quantix-e2e --no-fail-fast -E 'binary(guests) or binary(exact)'

lint: setup ## formatting, clippy, shellcheck, dependency rules
	@cargo fmt --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@cd tests/payload && env -u CARGO_TARGET_DIR cargo fmt --check && env -u CARGO_TARGET_DIR cargo clippy --quiet --release -- -D warnings
	@$(MAKE) --no-print-directory -C vmm/fuzz lint
	@shellcheck .ci/run .ci/setup .ci/test .ci/venv vmm/fuzz/play
	@command -v cargo-deny >/dev/null || { echo "lint: installing cargo-deny (a few minutes)"; cargo install --quiet --locked cargo-deny; }
	@cargo deny --log-level error check bans licenses sources

bench: bench-vmm bench-node ## everything that is measured (about six minutes)

bench-vmm: build ## quantix-vmm beside a bare KVM program and QEMU microvm, in turns, in one run (about three minutes)
	@# Linked as the VMM is, so that the bare program is not slower to load than what it is compared with.
	@cargo build --quiet --release --target $(TRIPLE) --config vmm/static.toml -p quantix-bench
	@$(BENCH) all --vmm $(VMM) --payload $(PAYLOAD)

bench-node: build ## the node daemon: from CreateVm to running, 200 VMs, the API with them there
	@cargo build --quiet --release -p quantix-node
	@cargo build --quiet --release --target $(TRIPLE) --config vmm/static.toml -p quantix-bench
	@$(BENCH) node --node $(TARGET_DIR)/release/quantix-node --vmm $(VMM) --payload $(PAYLOAD)

fuzz-sample: setup ## every fuzz target for some seconds (SECONDS=10)
	@$(MAKE) --no-print-directory -C vmm/fuzz sample

fuzz-long: setup ## every fuzz target for an hour
	@$(MAKE) --no-print-directory -C vmm/fuzz long

clean: ## removes what was built; images in the cache stay
	@cargo clean --quiet
	@rm -rf tests/payload/target vmm/fuzz/target vmm/fuzz/artifacts
