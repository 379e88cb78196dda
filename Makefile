# Everything that is done with this repository. `make` alone lists it.
#
# There is one cargo profile, release: wasmtime and librdkafka are built once,
# for running, for tests and for measuring. Guests have the profile `guest`.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Recipes run one after the other: cargo uses all cores by itself.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

TARGET := $(or $(CARGO_TARGET_DIR),target)
TIDEMILL := $(TARGET)/release/tidemill
COMPONENTS := $(TARGET)/tidemill
SEEDS := user order event
GUESTS := misbehave count echo
WASM := wasm32-wasip2
CARGO := cargo
# In CI a Cargo.lock that is not up to date is an error; elsewhere it is mended.
LOCKED := $(if $(CI),--locked)
VENV := $(TARGET)/venv
H2SPEC := $(TARGET)/h2spec/h2spec

# make run KAFKA=127.0.0.1:9092 ARGS="--data-dir shop"
KAFKA ?=
ARGS ?=
# make kafka KAFKA_PORT=9092
KAFKA_PORT ?= 9092
# make test TESTS=seeds
TESTS ?=
# make bench-events PARTS="latency memory"
PARTS ?=

# Tests wait more than they compute.
export RUST_TEST_THREADS ?= 6
export KAFKA_DIST ?= $(abspath $(TARGET)/kafka/dist)
export TIDEMILL_BIN ?= $(abspath $(TIDEMILL))
export TIDEMILL_COMPONENTS ?= $(abspath $(COMPONENTS))
export TIDEMILL_VENV ?= $(abspath $(VENV))
export TIDEMILL_H2SPEC ?= $(abspath $(H2SPEC))

# $(call need,command,what for and how to get it)
need = command -v $(1) >/dev/null 2>&1 || { echo "make: \`$(1)\` is not installed: $(2)" >&2; exit 1; }

# $(call foreground,command): on a terminal, job control (set -m) gives Ctrl-C to
# the command alone; make would take it for an error.
foreground = if [ -t 0 ]; then set -m; $(1); else exec $(1); fi

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make run KAFKA=127.0.0.1:9092 ARGS=\"--http 127.0.0.1:9000\""
	@echo "  make kafka KAFKA_PORT=9092        make test TESTS=seeds"

# ---------------------------------------------------------------- running

.PHONY: run
run: seeds ## build everything and serve the three seed services; Ctrl-C ends it
	@$(call foreground,$(TIDEMILL) serve \
		$(foreach seed,$(SEEDS),--deploy $(COMPONENTS)/$(seed).wasm) \
		$(if $(KAFKA),--kafka $(KAFKA)) $(ARGS))

.PHONY: kafka
kafka: ## run a real Kafka in the foreground, data in target/kafka; Ctrl-C ends it
	@kafka/kafka fetch
	@echo "Kafka on 127.0.0.1:$(KAFKA_PORT), data in $(TARGET)/kafka/$(KAFKA_PORT); then: make run KAFKA=127.0.0.1:$(KAFKA_PORT)"
	@# 130 and 143 are Ctrl-C and SIGTERM: how it is meant to end.
	@$(call foreground,kafka/kafka run $(TARGET)/kafka/$(KAFKA_PORT) $(KAFKA_PORT) $$(($(KAFKA_PORT) + 1))) \
		|| { code=$$?; [ $$code -eq 130 ] || [ $$code -eq 143 ] || exit $$code; }

# --------------------------------------------------------------- building

.PHONY: build
build: $(TARGET)/.toolchain ## build the host, target/release/tidemill
	@# All members, as the tests are built: then cargo gives their dependencies
	@# the same features, and wasmtime and librdkafka are built once.
	@$(CARGO) build --release $(LOCKED) --workspace --bins

.PHONY: seeds
seeds: build ## build the seed services to target/tidemill
	@for seed in $(SEEDS); do \
		$(TIDEMILL) build --profile guest handlers/$$seed || exit 1; \
	done

# These are as cargo builds them, without what `tidemill build` adds. In a folder
# of their own, since its flags are others: they would be built again each time.
.PHONY: guests
guests: $(TARGET)/.toolchain ## build the components of the tests
	@$(CARGO) build $(LOCKED) --profile guest --target $(WASM) --target-dir $(TARGET)/guests \
		$(GUESTS:%=-p tidemill-guest-%)
	@mkdir -p $(COMPONENTS)/guests
	@for guest in $(GUESTS); do \
		cp $(TARGET)/guests/$(WASM)/guest/tidemill_guest_$$guest.wasm $(COMPONENTS)/guests/$$guest.wasm || exit 1; \
	done

# rustup may be told not to install by itself what rust-toolchain.toml names
# (RUSTUP_AUTO_INSTALL=0), so it is asked.
$(TARGET)/.toolchain: rust-toolchain.toml
	@$(call need,rustup,see rustup.rs)
	@$(call need,cc,a C compiler builds librdkafka (Debian: apt install build-essential))
	@$(call need,perl,it builds OpenSSL (Debian: apt install perl))
	@rustup target list --installed 2>/dev/null | grep -qx $(WASM) \
		&& $(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 \
		|| { rustup target add $(WASM) && rustup component add rustfmt clippy; } \
		|| rustup toolchain install --no-self-update
	@mkdir -p $(TARGET) && touch $@

# --------------------------------------------------------------- checking

.PHONY: ci
ci: fmt-check lint doc deny test guard packaging dist ## what CI runs: all checks and all tests

.PHONY: test
test: seeds guests venv h2spec ## run all tests, on the embedded broker and on a real Kafka
	@kafka/kafka fetch
	@$(CARGO) test --release $(LOCKED) --workspace $(if $(TESTS),-- $(TESTS))
	@$(if $(TESTS),:,$(MAKE) monitoring)

# Counts instructions, so other load does not matter: bench/guard/main.rs.
.PHONY: guard guard-record
guard: ## hold the instructions of a request and an event against what is recorded
	@command -v valgrind >/dev/null 2>&1 \
		|| { echo "make guard: NOT CHECKED: instructions; valgrind is not installed (Debian: apt install valgrind)" >&2; exit 0; }; \
	$(MAKE) guard-check GUARD=check

guard-record: ## record how many instructions a request and an event take
	@$(call need,valgrind,it counts instructions (Debian: apt install valgrind))
	@$(MAKE) guard-check GUARD=record

.PHONY: guard-check
guard-check: build
	@for service in bench/guests/plain bench/guests/answer bench/guests/forward handlers/user; do \
		$(TIDEMILL) build --profile guest $$service >/dev/null || exit 1; \
	done
	@$(CARGO) bench $(LOCKED) --workspace --bench guard -- $(GUARD)

# What it checks with is 40 MB to fetch, so it is not in `make test`.
.PHONY: packaging
packaging: build venv ## check the image, Compose, Kubernetes and the unit
	@cmp -s packaging/requirements.txt $(VENV)/.packaging || { \
		$(VENV)/bin/pip install -q --disable-pip-version-check -r packaging/requirements.txt \
		&& cp packaging/requirements.txt $(VENV)/.packaging; \
	} || { echo "make packaging: NOT CHECKED: pip could not fetch what packaging/ is checked with" >&2; exit 0; }; \
	packaging/check $(VENV) $(TIDEMILL)

.PHONY: dist
dist: build ## the release: target/dist/tidemill-VERSION-TRIPLE.tar.gz
	@packaging/dist $(TIDEMILL) $(TARGET)/dist

.PHONY: monitoring
monitoring: ## hold metrics, alerts and dashboard against a real Prometheus
	@monitoring/check $(TIDEMILL) $(SEEDS:%=$(COMPONENTS)/%.wasm)

.PHONY: chaos
chaos: guests build ## hold exactly-once for long, while hosts, brokers and networks die or change: minutes
	@kafka/kafka fetch
	@TIDEMILL_CHAOS=long $(CARGO) test --release $(LOCKED) --workspace --test all -- exactly_once trouble deployments --include-ignored --nocapture

# make soak SOAK=1200: seconds
SOAK ?= 1200

.PHONY: soak
soak: guests build ## hold that nothing leaks under load and faults: half an hour
	@kafka/kafka fetch
	@TIDEMILL_SOAK=$(SOAK) $(CARGO) test --release $(LOCKED) --workspace --test all -- endurance:: --nocapture
	@echo "samples and their plot: $(TARGET)/soak.csv, $(TARGET)/soak.svg"

# make fuzz FUZZ_SECONDS=600
FUZZ_SECONDS ?= 60

# Without a sanitizer: our code is safe, and librdkafka does not link with one.
.PHONY: fuzz
fuzz: ## fuzz manifests, sections and deploys: needs a nightly toolchain and cargo-fuzz
	@$(call need,cargo-fuzz,it runs the fuzz targets: cargo install --locked cargo-fuzz)
	@for target in manifest section deploy; do \
		mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# Each mechanism with a test that has to fail without it.
SABOTAGED := $(TARGET)/release/tidemill-sabotaged
SABOTAGE := terms:a_paused_host_commits_nothing \
	catch-up:counts_are_exact_whatever_dies \
	refusals:an_effect_that_is_too_large

.PHONY: sabotage
sabotage: guests ## show that the tests of exactly-once fail without what they hold
	@kafka/kafka fetch
	@$(CARGO) build --release $(LOCKED) -p tidemill-host --features sabotage
	@cp $(TIDEMILL) $(SABOTAGED)
	@$(MAKE) build
	@for pair in $(SABOTAGE); do \
		SABOTAGE=$${pair%%:*} TIDEMILL_BIN=$(abspath $(SABOTAGED)) \
		$(CARGO) test --release $(LOCKED) -q -p tidemill-tests --test all -- $${pair##*:} >$(TARGET)/sabotage.log 2>&1 \
		&& { echo "make: $${pair##*:} passes without $${pair%%:*}" >&2; exit 1; } \
		|| echo "without $${pair%%:*}, $${pair##*:} fails, as it should"; \
	done

.PHONY: fmt
fmt: $(TARGET)/.toolchain ## format all code
	@$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check: $(TARGET)/.toolchain
	@$(CARGO) fmt --all --check || { echo "make: run \`make fmt\`" >&2; exit 1; }

.PHONY: lint
lint: $(TARGET)/.toolchain ## clippy over everything, warnings are errors
	@$(CARGO) clippy --release $(LOCKED) --workspace --all-targets -- -D warnings
	@$(CARGO) clippy $(LOCKED) --profile guest --target $(WASM) $(SEEDS:%=-p %) $(GUESTS:%=-p tidemill-guest-%) -p bench-answer -p bench-count -p bench-forward -p bench-plain -p bench-serve-p2 -p bench-serve-p3 -- -D warnings

.PHONY: doc
doc: $(TARGET)/.toolchain ## build the API documentation, warnings are errors
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release $(LOCKED) --workspace --lib --no-deps

# cargo-deny is a program of its own, and its advisories come from the network.
# What cannot be checked is not passed over in silence.
.PHONY: deny
deny: ## check licences and advisories with cargo-deny
	@if command -v cargo-deny >/dev/null 2>&1; then \
		$(CARGO) deny --workspace check licenses bans sources || exit 1; \
		if $(CARGO) deny --workspace fetch db >/dev/null 2>&1; then \
			$(CARGO) deny --workspace check advisories; \
		else \
			echo "make deny: NOT CHECKED: advisories; the advisory database cannot be fetched here" >&2; \
		fi; \
	else \
		echo "make deny: NOT CHECKED: licences and advisories; cargo-deny is not installed (cargo install --locked cargo-deny)" >&2; \
	fi

# h2spec is a Go program of its own, and the only one here. v2.2.1 is the newest
# that is a Go module by name.
.PHONY: h2spec
h2spec:
	@test -x $(TIDEMILL_H2SPEC) || { mkdir -p $(dir $(abspath $(H2SPEC))) \
		&& command -v go >/dev/null 2>&1 \
		&& GOBIN=$(dir $(abspath $(H2SPEC))) go install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible; } \
		|| echo "make test: NOT CHECKED: HTTP/2 conformance; h2spec is not there and could not be fetched with go" >&2

# The clients of the services that Tidemill replaces are Python: so is a check.
.PHONY: venv
venv: $(VENV)/.requests
$(VENV)/.requests:
	@$(call need,python3,the tests use its requests package (Debian: apt install python3 python3-venv))
	@python3 -m venv $(VENV) || { echo "make: python3 has no venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(VENV)/bin/pip install -q --disable-pip-version-check requests==2.32.5 \
		|| { echo "make: pip could not install requests" >&2; exit 1; }
	@touch $@

# -------------------------------------------------------------- measuring

# What is measured beside Tidemill, at pinned versions: bench/README.md.
PEERS := $(TARGET)/peers
# The newest of the wasmtime that the host has.
WASMTIME := 48.0.8
BENCHES := requests publish fresh bodies connections fairness coldstart

.PHONY: bench
bench: $(BENCHES:%=bench-%) bench-events bench-services bench-report ## measure both hot paths against what others do

# Each scenario of requests: bench/src/http.
.PHONY: $(BENCHES:%=bench-%)
$(BENCHES:%=bench-%): bench-%: peers seeds
	@for guest in answer plain; do \
		$(TIDEMILL) build --profile guest bench/guests/$$guest || exit 1; \
	done
	@$(if $(filter publish,$*),kafka/kafka fetch)
	@$(TARGET)/release/tidemill-bench $*

.PHONY: peers
peers: $(TARGET)/.toolchain $(PEERS)/bin/wasmtime $(PEERS)/fastapi/.installed
	@$(CARGO) build $(LOCKED) --profile guest --target $(WASM) --target-dir $(TARGET)/guests \
		-p bench-serve-p2 -p bench-serve-p3

# Minutes of compiling, once. With what serving needs, and no more; `serve` does
# not compile without `run`.
$(PEERS)/bin/wasmtime: $(PEERS)/.wasmtime-$(WASMTIME)
$(PEERS)/.wasmtime-$(WASMTIME):
	@$(CARGO) install --locked wasmtime-cli --version =$(WASMTIME) \
		--root $(PEERS) --target-dir $(PEERS)/build --no-default-features \
		--features run,serve,compile,component-model-async,cranelift,pooling-allocator,parallel-compilation
	@rm -rf $(PEERS)/build
	@touch $@

$(PEERS)/fastapi/.installed: bench/fastapi/requirements.txt
	@$(call need,python3,FastAPI is measured beside (Debian: apt install python3 python3-venv))
	@python3 -m venv $(PEERS)/fastapi
	@$(PEERS)/fastapi/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

.PHONY: bench-services
bench-services: build ## a host with 1 to 1,000 services, at its start and at rest
	@kafka/kafka fetch
	@for guest in answer forward; do \
		$(TIDEMILL) build --profile guest bench/guests/$$guest || exit 1; \
	done
	@$(TARGET)/release/tidemill-bench services $(PARTS)

.PHONY: bench-events
bench-events: build ## events against bare rdkafka and Kafka Streams, on a real Kafka
	@kafka/kafka fetch
	@bench/streams/streams build $(TARGET)/streams
	@for guest in forward count; do \
		$(TIDEMILL) build --profile guest bench/guests/$$guest || exit 1; \
	done
	@$(TARGET)/release/tidemill-bench events $(PARTS)

# Minutes of compiling, once: perf follows frame pointers.
FLAME := $(TARGET)/flame

.PHONY: bench-flame
bench-flame: build ## flame graphs of a request and an event, and the share of each part
	@$(call need,perf,it samples where time goes (Debian: apt install linux-perf))
	@$(call need,inferno-flamegraph,it draws flame graphs: cargo install --locked inferno)
	@kafka/kafka fetch
	@RUSTFLAGS="-C force-frame-pointers=yes" $(CARGO) build --release $(LOCKED) -p tidemill-host --bin tidemill --target-dir $(FLAME)
	@TIDEMILL_BIN=$(abspath $(FLAME))/release/tidemill \
		bench/flame $(TARGET)/release/tidemill-bench $(FLAME)/samples docs/performance

.PHONY: bench-report
bench-report: build ## docs/performance.md and its plots, from what was measured last
	@$(TARGET)/release/tidemill-bench report

# --------------------------------------------------------------- the rest

.PHONY: clean
clean: ## delete what was built, the fetched Kafka and its data
	@$(CARGO) clean
