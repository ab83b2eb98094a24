# The two commands that matter: `make demo` and `make test`. Each sets up what it needs.
SHELL := /bin/bash
COMMA := ,
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
VENV := $(CURDIR)/.venv
SHIP := $(TARGET)/ship
RUNTIME := $(TARGET)/$(HOST)/runtime/bootstrap
PACK := $(if $(filter x86_64-%,$(HOST)),-C link-arg=-Wl$(COMMA)-z$(COMMA)pack-relative-relocs -C link-arg=-Wl$(COMMA)--icf=all)

.PHONY: demo test build static lint test-rust test-python python ship runtime runtimes bench simulate chaos needs-cargo clean

# Package, deploy and canary a real model on a Lambda on this machine, under live traffic.
demo: build
	@"$(TARGET)/debug/slsml-demo"

# Everything that must pass.
test: lint build test-rust test-python

build: needs-cargo
	@echo "Building slsml and its runtime; a cold build compiles tract and the AWS SDKs and takes about 8 minutes on 2 cores."
	@$(CARGO) build --locked --workspace --bins

# The container's program for tests: an image holds nothing it could be linked with.
static: build
	@$(CARGO) rustc --locked --quiet -p slsml-server --bin slsml-server -- -C target-feature=+crt-static
	@mkdir -p "$(TARGET)/debug/static" && cp "$(TARGET)/debug/slsml-server" "$(TARGET)/debug/static/"

lint: needs-cargo
	@if $(CARGO) fmt --version >/dev/null 2>&1; then $(CARGO) fmt --all --check; \
	else echo "rustfmt is not installed (rustup component add rustfmt): formatting is not checked"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then $(CARGO) clippy --locked --workspace --all-targets --quiet -- -D warnings; \
	else echo "clippy is not installed (rustup component add clippy): lints are not checked"; fi

test-rust: static
	$(CARGO) test --locked --workspace

test-python: static python
	@rm -rf "$(TARGET)/python-tests" && "$(TARGET)/debug/slsml" --json package examples/digits/models/v1.onnx \
		--name digits --out "$(TARGET)/python-tests" >/dev/null
	@SLSML_BIN="$(TARGET)/debug/slsml" SLSML_SERVER="$(TARGET)/debug/static/slsml-server" SLSML_DIGITS_ZIP="$(TARGET)/python-tests/digits/lambda.zip" \
		SLSML_MINISTACK="$$(test -x $(VENV)/bin/ministack && echo $(VENV)/bin/ministack)" \
		"$(VENV)/bin/pytest" -q tests/python

# Independent AWS clients and a Lambda that others wrote, in a virtual environment.
python: $(VENV)/ready
$(VENV)/ready: tests/python/setup tests/python/requirements.txt tests/python/requirements-ministack.txt
	@tests/python/setup "$(VENV)" && touch $@

# What ships: the command line and, beside it, the runtimes it packages. They are compressed
# once, here, as no user's machine should have to.
ship: $(SHIP)/bootstrap.zip
	$(CARGO) build --locked --release -p slsml
	@cp "$(TARGET)/release/slsml" "$(dir $(RUNTIME))slsml-server" $(SHIP)/

$(SHIP)/bootstrap.zip: runtime
	@mkdir -p $(SHIP)
	@cmp -s "$(RUNTIME)" $(SHIP)/.bootstrap || { echo "Compressing the runtime"; \
		$(CARGO) run --locked --release --quiet -p slsml-package --example runtime_zip -- "$(RUNTIME)" $@ \
		&& cp "$(RUNTIME)" $(SHIP)/.bootstrap; }

# Linked statically: Amazon Linux 2023 has an older C library than most build machines, and a
# container's image has none. Rust's own
# linker packs relocations and folds functions that are the same.
runtime: needs-cargo
	RUSTFLAGS="-C target-feature=+crt-static $(PACK)" $(CARGO) build --locked --profile runtime --target $(HOST) -p slsml-bootstrap -p slsml-server

# Both processors' runtimes. The one for arm64 needs a compiler for it, which is set up on Debian.
runtimes: ship $(SHIP)/bootstrap-arm64.zip

$(SHIP)/bootstrap-arm64.zip: needs-cargo
	@mkdir -p $(SHIP)
	settings=$$(functions/bootstrap/cross/arm64-env "$(TARGET)/arm64") && eval "$$settings" && \
		RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --locked --profile runtime \
		--target aarch64-unknown-linux-gnu --target-dir "$(TARGET)/arm64/target" -p slsml-bootstrap -p slsml-server
	@cp "$(TARGET)/arm64/target/aarch64-unknown-linux-gnu/runtime/slsml-server" $(SHIP)/slsml-server-arm64
	$(CARGO) run --locked --release --quiet -p slsml-package --example runtime_zip -- \
		"$(TARGET)/arm64/target/aarch64-unknown-linux-gnu/runtime/bootstrap" $@

# A cold start beside its peers, on the bundled and the downloaded models; `make bench ARGS=--json`
# for machines.
bench: ship
	$(CARGO) run --locked --release --quiet -p slsml-bench -- coldstart --programs "$(TARGET)/ship" $(ARGS)

# Releases in virtual time: how often a sound candidate is aborted, how fast a bad one is caught.
simulate: needs-cargo
	$(CARGO) run --locked --release --quiet -p slsml-bench -- simulate $(ARGS)

# Releases that are killed, or refused by the API, at any call they make, under live traffic.
chaos: ship
	SLSML_PROGRAMS="$(TARGET)/ship" $(CARGO) run --locked --release --quiet -p slsml-bench -- chaos $(ARGS)

needs-cargo:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it from https://rustup.rs (1.95 or newer)"; exit 2; }
	@command -v cc >/dev/null || { echo "A C compiler is missing: apt-get install -y gcc libc6-dev"; exit 2; }

clean:
	$(CARGO) clean
	rm -rf "$(VENV)"
