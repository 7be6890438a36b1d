# Every task starts here, for people and for CI alike. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup need-root need-cargo need-libraries build demo test lint unit soak fuzz fuzz-briefly deny fastpath cluster image image-arm64 image-test tools vm bench bench-fastpath

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Under sudo, the Rust of the user who called it, unless root has one.
export PATH := $(PATH):/root/.cargo/bin
ifneq ($(SUDO_USER),)
  SUDO_HOME := $(shell getent passwd '$(SUDO_USER)' | cut -d: -f6)
  ifeq ($(shell command -v cargo),)
    export PATH := $(PATH):$(SUDO_HOME)/.cargo/bin
    export CARGO_HOME ?= $(SUDO_HOME)/.cargo
    export RUSTUP_HOME ?= $(SUDO_HOME)/.rustup
  endif
endif

# Debian packages: to build (C libraries and what finds them), and to test (network namespaces, nft as the judge, the programs that
# kube-proxy's other modes run, libFuzzer, a clock that jumps).
BUILD_PACKAGES := gcc libc6-dev pkg-config libnftnl-dev libmnl-dev
TEST_PACKAGES := nftables iproute2 util-linux procps time iptables ipset ipvsadm g++ libfaketime
# To make the image, and to make it for arm64 elsewhere.
IMAGE_PACKAGES := buildah jq binutils
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# To test the image and the manifests: a container runtime, the system calls that runtimes allow by default, and what pip needs.
PACKAGING_TEST_PACKAGES := runc golang-github-containers-common python3-venv
PACKAGES = $(BUILD_PACKAGES) $(TEST_PACKAGES)

help: ## This list.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo "demo, test and bench need root: sudo make ..."

demo: need-root setup ## Services at work on a made-up node: network namespaces, real packets.
	cargo build --quiet --release -p proxy -p e2e
	target/release/demo --manifests config/demo

test: PACKAGES += $(IMAGE_PACKAGES) $(PACKAGING_TEST_PACKAGES)
test: need-root setup lint deny unit fuzz-briefly fastpath image-test ## Everything that CI runs.

bench: need-root setup ## What many Services cost, next to kube-proxy's shape: starts, changes, CPU, memory; a share of 5,000 nodes.
	cargo build --quiet --release -p benches -p proxy
	target/release/scale
	@# Last, and by itself: what is measured above is built without the clock that the simulation stops.
	cargo build --quiet --release -p benches --features simulation --bin cluster
	target/release/cluster

bench-fastpath: need-root setup vm ## What the fast path gains, on other kernels in a VM: throughput, and instructions a packet.
	cargo build --quiet --release -p proxy -p benches
	target/release/fastpath

build: need-libraries ## The kube-proxy binary, in target/release.
	cargo build --release -p proxy

lint: need-cargo ## Format and clippy.
	cargo fmt --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy --package e2e --test fastpath --quiet -- -D warnings
	cargo clippy --package benches --features simulation --bin cluster --quiet -- -D warnings

unit: need-cargo tools
	cargo build --quiet -p proxy
	cargo test --workspace --exclude fuzz --quiet
	@# A kernel without memory for one thread can only be had with cgroup v1.
	@if [ -e /sys/fs/cgroup/memory/memory.oom_control ]; then cargo test --quiet -p e2e --test it -- --ignored; \
	else echo "not run, for want of cgroup v1: a_kernel_without_memory_is_told_of_and_made_up_for"; fi

FUZZ_TARGETS := nf_tables conntrack config objects manifests
FUZZ_SECONDS := 600

fuzz: need-cargo setup ## Fuzz targets, each for FUZZ_SECONDS=600, or some: FUZZ_TARGETS=objects. Inputs that fail stay in target/fuzz.
	RUSTC_WORKSPACE_WRAPPER='$(CURDIR)/fuzz/rustc' cargo build --quiet -p fuzz
	@# Memory is limited, so that to believe a length in the input is a failure.
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p target/fuzz/$$target; \
	    (ulimit -v 4194304; target/debug/$$target -print_final_stats=1 -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -timeout=10 \
	        -rss_limit_mb=1024 -artifact_prefix=target/fuzz/$$target- target/fuzz/$$target fuzz/seeds/$$target) \
	        >target/fuzz/$$target.log 2>&1 || { tail -n 100 target/fuzz/$$target.log; exit 1; }; \
	    echo "fuzz target $$target: $$(sed -n 's/^stat::number_of_executed_units: *//p' target/fuzz/$$target.log) inputs"; \
	done

fuzz-briefly:
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=10

CARGO_DENY := 0.20.2

# Its check of advisories fetches their database: run `target/tools/bin/cargo-deny check advisories` where that can be reached.
deny: need-cargo ## Licences, duplicate versions and sources of dependencies, by deny.toml.
	@[ -x target/tools/bin/cargo-deny ] || \
	    cargo install --quiet --locked --no-default-features --root target/tools --version $(CARGO_DENY) cargo-deny
	target/tools/bin/cargo-deny --log-level error check bans licenses sources

SOAK ?= 1000

soak: need-root setup ## The tests of faults with their seeds; the proxy is killed a thousand times, or SOAK=… times.
	cargo build --quiet -p proxy
	SOAK='$(SOAK)' cargo test --quiet -p e2e --test it faults -- --nocapture

cluster: need-root setup ## The tests with an API server, on a real one: sudo make cluster SLIPSTREAM_E2E_KUBECONFIG=FILE
	@[ -n "$(SLIPSTREAM_E2E_KUBECONFIG)" ] || { echo "give the kubeconfig of an administrator: make $@ SLIPSTREAM_E2E_KUBECONFIG=FILE" >&2; exit 1; }
	cargo build --quiet -p proxy
	SLIPSTREAM_E2E_KUBECONFIG='$(SLIPSTREAM_E2E_KUBECONFIG)' cargo test --quiet -p e2e --test cluster

KERNELS := 6.1 6.12

fastpath: need-root setup vm ## The tests of the fast path, on other kernels in a VM.
	cargo build --quiet -p proxy
	@# The tests with the binary, and those of the crate that cannot be run without flowtables.
	@built=$$(cargo test --quiet -p e2e -p proxy --lib --test fastpath --no-run --message-format=json-render-diagnostics); \
	path() { sed -n "s/.*\"name\":\"$$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" <<<"$$built"; }; \
	for kernel in $(KERNELS); do \
	    echo "kernel $$kernel:"; \
	    vm/run $$kernel sh -ec '"$$0" --test-threads=2; "$$1" --ignored fastpath' "$$(path fastpath)" "$$(path proxy)"; \
	done

image: PACKAGES += $(IMAGE_PACKAGES)
image: need-root setup build ## The OCI image, in target/image/slipstream.tar, with its bill of materials.
	@image/build

image-arm64: PACKAGES += $(IMAGE_PACKAGES) $(ARM64_PACKAGES)
image-arm64: need-root setup ## The same for arm64, in target/image/slipstream-arm64.tar.
	@image/cross
	@image/build arm64

image-test: PACKAGES += $(IMAGE_PACKAGES) $(PACKAGING_TEST_PACKAGES)
image-test: need-root setup tools image ## The image at work, with the rights that the hardened manifests give it.
	cargo test --quiet -p e2e --test packaging -- --ignored

tools: PACKAGES += $(PACKAGING_TEST_PACKAGES)
tools: setup ## Gets kubectl, Helm and promtool for the tests of the manifests, into target/tools.
	@manifests/tools

vm: need-root ## Gets Debian's kernels, QEMU and virtme-ng, into target/vm.
	@vm/setup

need-libraries: need-cargo
	@command -v gcc >/dev/null && command -v pkg-config >/dev/null && pkg-config --exists libnftnl libmnl || \
	{ echo "missing to build: gcc, pkg-config, libnftnl and libmnl with headers; on Debian: apt-get install $(BUILD_PACKAGES)" >&2; exit 1; }

setup: need-cargo ## Installs what is missing to build and test, where apt-get is at hand.
	@missing=$$(for package in $(PACKAGES); do \
	    dpkg-query --show --showformat '$${Status}' "$$package" 2>/dev/null | grep -q 'ok installed' || echo "$$package"; done); \
	if [ -n "$$missing" ]; then \
	    command -v apt-get >/dev/null || { echo "install these packages, by your system's names:" $$missing >&2; exit 1; }; \
	    [ "$$(id -u)" = 0 ] || { echo "missing packages: run 'sudo make setup' to install" $$missing >&2; exit 1; }; \
	    echo "installing" $$missing; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces and nftables rules: run it as root, 'sudo make ...'" >&2; exit 1; }

need-cargo:
	@command -v cargo >/dev/null || { echo "cargo is not on the PATH: install Rust 1.95 or later first" >&2; exit 1; }
