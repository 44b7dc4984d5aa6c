# Targets of this project; `make` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
FUZZTIME ?= 10s
BENCHTIME ?= 1s
BENCH ?= .
ROUNDS ?= 5
SECONDS ?= 2
PEERS ?= 10000
VARIANTS ?=
MEASURES ?=
TEST_TIMEOUT ?= 20m

# The same source gives the same binary: no paths, no build date, no state of the checkout but its name.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w $(if $(VERSION),-X main.version=$(VERSION))
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

PLATFORMS := linux/arm64 darwin/arm64 darwin/amd64 windows/amd64 freebsd/amd64
# Puts the socket of the other systems in the place of that of Linux.
PORTABLE := wice_portable
LINT := $(GO) tool -modfile=.tools/lint/go.mod golangci-lint

# What the tests in namespaces run, and the C compiler of the race detector.
DEBIAN := wireguard-tools systemd coturn iperf3 nftables iptables conntrack iproute2 iputils-ping ncat curl gcc libc6-dev

# The tests run beside Linux's own WireGuard in an emulated machine, on amd64.
ifeq ($(shell dpkg --print-architecture 2>/dev/null),amd64)
DEBIAN += qemu-system-x86 busybox-static
GUEST := linux-image-cloud-amd64
endif
# Of the kernel's package only this is unpacked.
GUEST_FILES := './boot/vmlinuz-*' '*/virtio*.ko' '*/*failover.ko' '*/wireguard.ko' '*/*udp_tunnel.ko' '*/*chacha*.ko' '*/*poly1305*.ko' '*/*curve25519*.ko'

.PHONY: help build demo test race fuzz bench bench-tunnels bench-peers e2e lint generate check deps format-check vet generate-check tidy-check arch cross clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 18

build: ## build bin/wice-go
	$(BUILD) -o bin/wice-go ./cmd/wice-go

demo: build ## two peers on this machine find each other, without root
	@./bin/wice-go demo

deps: ## as root on Debian: install the programs that the tests in namespaces need
	@if [ "$$(id -u)" = 0 ] && command -v dpkg-query >/dev/null; then \
		missing=(); \
		for p in $(DEBIAN); do \
			[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null || true)" = installed ] || missing+=("$$p"); \
		done; \
		if [ "$${#missing[@]}" != 0 ]; then \
			echo "installing $${missing[*]}"; \
			export DEBIAN_FRONTEND=noninteractive; \
			apt-get update -qq; \
			apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
			if [[ " $${missing[*]} " = *" coturn "* && -d /run/systemd/system ]]; then systemctl disable --quiet --now coturn; fi; \
		fi; \
		if [ -n "$(GUEST)" ] && [ ! -d bin/kernel ]; then \
			echo "unpacking $(GUEST)"; \
			rm -rf bin/kernel.new; mkdir -p bin/kernel.new; \
			( cd bin/kernel.new && { [ "$${#missing[@]}" != 0 ] || apt-get update -qq; } && \
				package=$$(apt-cache show --no-all-versions $(GUEST) | sed -nE 's/^Depends: (linux-image-[^ ]+).*/\1/p') && \
				apt-get download -qq -o APT::Sandbox::User=root "$$package" && dpkg --fsys-tarfile ./*.deb | tar -x --wildcards $(GUEST_FILES) && \
				rm ./*.deb && mv ../kernel.new ../kernel ) || \
			{ rm -rf bin/kernel.new; echo "there is none: the tests beside Linux's own WireGuard are left out"; }; \
		fi; \
	fi

test: deps ## every test under the race detector; as root with those in namespaces
	@if [ "$$(id -u)" != 0 ]; then \
		echo "not root: left out are tests that need root, in"; \
		grep -rlE 'natlab\.(New|Need)\(|\bNeed\(t\)|Skipf?\(.*root' --include='*_test.go' . | xargs -r -n1 dirname | sort -u | sed 's/^/  /'; \
	fi
	$(GO) test -count=1 -run NoAllocations ./bind # the race detector allocates, so not below
	$(GO) test -count=1 -run NoAllocations -tags $(PORTABLE) ./bind
	$(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) -tags $(PORTABLE) ./bind
	$(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) -p 2 ./...

race: ## the tests of the packages under the race detector, without those of whole programs
	$(GO) test -race -shuffle=on -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -v '/test/')

e2e: deps ## as root: the tests of whole programs in namespaces
	$(GO) test -race -count=1 -timeout $(TEST_TIMEOUT) ./test/...

fuzz: ## run each fuzz target for FUZZTIME (default 10s)
	@grep -rnoE '^func Fuzz[A-Za-z0-9_]+' --include='*_test.go' . | sed -E 's/^(.*)\/[^/]+:[0-9]+:func (.*)/\1 \2/' | sort -u | \
	while read -r package target; do \
		echo "$$package $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$package"; \
	done

bench: ## benchmarks, the bind beside the stock one, also with the portable socket; BENCH= chooses, BENCHTIME= is for each; then bench-tunnels and bench-peers, unless BENCH= is given
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout $(TEST_TIMEOUT) \
		$$(grep -rl '^func Benchmark' --include='*_test.go' . | xargs -n1 dirname | sort -u)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout $(TEST_TIMEOUT) -tags $(PORTABLE) ./bind
	@if [ '$(BENCH)' = . ]; then $(MAKE) --no-print-directory bench-tunnels TABLES=docs/benchmarks.md; $(MAKE) --no-print-directory bench-peers; fi

bench-tunnels: deps ## as root: whole tunnels beside plain wireguard-go; ROUNDS= SECONDS= VARIANTS= MEASURES=, and TABLES= is a document to write into
	$(GO) test ./test/bench -count=1 -v -run '^TestTunnels$$' -timeout 2h -args -tunnels -rounds '$(ROUNDS)' -seconds '$(SECONDS)' \
		-variants '$(VARIANTS)' -measures '$(MEASURES)' -write '$(if $(TABLES),$(abspath $(TABLES)))' $(BENCHFLAGS)

bench-peers: deps ## as root: an interface with PEERS= idle peers (default 10000) beside plain wireguard-go's; ROUNDS=
	$(GO) test ./test/bench -count=1 -v -run '^TestPeers$$' -timeout 1h -args -peers '$(PEERS)' -rounds '$(ROUNDS)'

lint: ## golangci-lint, built from .tools/lint
	$(LINT) run ./...

generate: ## write the generated code again
	$(GO) generate ./proto/...

check: ## everything but the tests: format, vet, lint, generated code, go.mod, architecture, other systems
	@for step in format-check vet lint generate-check tidy-check arch cross; do \
		start=$$SECONDS; \
		$(MAKE) --no-print-directory $$step; \
		echo "check: $$step took $$((SECONDS - start)) s"; \
	done

format-check: ## is every file as gofmt writes it?
	@bad=$$(gofmt -l .); [ -z "$$bad" ] || { echo "not formatted, run gofmt -w:"; echo "$$bad"; exit 1; }

vet: ## go vet
	$(GO) vet ./...
	$(GO) vet -tags $(PORTABLE) ./bind

generate-check: ## is the generated code what the sources give?
	@sums() { find proto -name '*.pb.go' -exec sha256sum {} + | sort -k2; }; \
	before=$$(sums); $(GO) generate ./proto/...; after=$$(sums); \
	[ "$$before" = "$$after" ] || { echo "generated code was out of date: commit what make generate wrote"; diff <(echo "$$before") <(echo "$$after") || true; exit 1; }

tidy-check: ## is go.mod tidy?
	$(GO) mod tidy -diff

arch: ## layers, banned imports, comments, sizes
	$(GO) test ./test/arch

cross: ## build for the other systems
	@for platform in $(PLATFORMS); do \
		start=$$SECONDS; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} CGO_ENABLED=0 $(GO) build -trimpath ./...; \
		echo "cross: $$platform took $$((SECONDS - start)) s"; \
	done

clean: ## remove what was built
	rm -rf bin
