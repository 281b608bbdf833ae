# make            builds bin/deimos
# make help       lists the targets

GO            ?= go
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TEST_TIMEOUT  ?= 15m
E2E_TIMEOUT   ?= 30m
FUZZTIME      ?= 60s
SEEDS         ?= 300
FROM          ?= 1
ROUNDS        ?= 10
ZOO           ?=
SECONDS       ?= 4
CELLS         ?=
BENCH         ?= .
BENCH_PKGS    ?= ./store ./raftnode ./httpapi ./wal
# One set of flags for the program, its tests and the linter: packages that are
# built with others are built again.
export GOFLAGS ?= -trimpath
# Without cgo the program needs no library of the system, and can have late
# timers; only the race detector needs it.
export CGO_ENABLED ?= 0
RACE           = CGO_ENABLED=1 $(GO) test -race
# The tests with real processes start the program that was built.
WITH_PROGRAM   = DEIMOS_BIN=$(CURDIR)/bin/deimos
# Flags for make run and make cluster: make run ARGS='--log-level debug'
ARGS          ?=

TOOLS         := $(CURDIR)/.tools/bin
LINT_VERSION  := 2.15.0
LINT          := $(TOOLS)/golangci-lint
GOGO_VERSION   = $(shell $(GO) list -m -f '{{.Version}}' github.com/gogo/protobuf)
GOGO_DIR       = $(shell $(GO) list -m -f '{{.Dir}}' github.com/gogo/protobuf)

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

.PHONY: build
build: ## build bin/deimos (the default)
	$(GO) build -ldflags '-X main.version=$(VERSION)' -o bin/deimos ./cmd/deimos

.PHONY: run
run: build ## run one member on the default ports, data in default.deimos
	./bin/deimos $(ARGS)

.PHONY: cluster
cluster: build ## run three members on 127.0.0.1:4001-4003, data in cluster.deimos; Ctrl-C stops them
	$(GO) build -o bin/cluster ./internal/tools/cluster
	./bin/cluster -bin bin/deimos -data cluster.deimos $(ARGS)

.PHONY: test
test: build ## run all tests with the race detector, SEEDS (300) seeds of the simulator and the cheap part of the bug zoo
	# Four packages at a time: most of their tests wait more than they compute.
	$(WITH_PROGRAM) $(RACE) -p 4 -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -vE '/test/|/internal/sim')
	# Not beside others: a run under fault with too little traffic proves nothing.
	$(WITH_PROGRAM) $(RACE) -parallel 4 -timeout $(TEST_TIMEOUT) ./test/e2e
	# One by one for the same reason, and without the race detector: a simulated
	# cluster is one goroutine, and those of test/faults are processes.
	$(WITH_PROGRAM) $(GO) test -p 1 -timeout $(TEST_TIMEOUT) ./internal/sim ./test/faults
	$(GO) run ./internal/sim/simrun -seeds $(SEEDS)
	$(GO) run ./internal/zoo -short
	# A module of its own, so that the client stays free of gRPC.
	cd client/grpcresolver && $(RACE) -timeout $(TEST_TIMEOUT) ./...

.PHONY: check
check: lint-install ## check formatting, vet and lint
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs -r gofmt -l) && \
		if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(LINT) run
	@if command -v shellcheck >/dev/null; then shellcheck -x -P docs/examples docs/examples/*.sh; fi
	cd client/grpcresolver && $(GO) vet ./... && $(LINT) run

.PHONY: bench
bench: ## run the benchmarks; BENCH=regexp chooses
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(E2E_TIMEOUT) $(BENCH_PKGS)

.PHONY: bench-peers
bench-peers: build ## compare with etcd 3.4, an empty handler and bare sockets; ROUNDS (5), SECONDS (4) of each measurement, CELLS=regexp chooses
	$(GO) build -o bin/benchpeers ./internal/tools/benchpeers
	./bin/benchpeers -bin bin/deimos -rounds $(if $(filter file,$(origin ROUNDS)),5,$(ROUNDS)) -seconds $(SECONDS) -cells '$(CELLS)' $(ARGS)

.PHONY: e2e
e2e: build ## run the tests with real processes
	$(WITH_PROGRAM) $(GO) test -count 1 -timeout $(E2E_TIMEOUT) ./test/e2e/...

.PHONY: sim
sim: ## run SEEDS (300) seeds of the simulator from FROM (1) on, or replay one: SEED=n
ifdef SEED
	$(GO) run ./internal/sim/simrun -seed $(SEED)
else
	$(GO) run ./internal/sim/simrun -seeds $(SEEDS) -from $(FROM)
endif

.PHONY: zoo
zoo: ## build deliberate defects and show which test catches each, and what the simulator catches alone; ZOO=-list lists them
	$(GO) run ./internal/zoo $(ZOO)
ifeq ($(ZOO),)
	$(GO) run ./internal/zoo -sim
endif

.PHONY: faults
faults: build ## run ROUNDS (10) runs of real processes under fault
	$(WITH_PROGRAM) $(GO) test -count 1 -timeout 24h -run TestRuns ./test/faults -rounds $(ROUNDS)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (60s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		listed=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(echo "$$listed" | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

.PHONY: proto
proto: ## generate the .pb.go files from the .proto files (needs protoc)
	GOBIN=$(TOOLS) $(GO) install github.com/gogo/protobuf/protoc-gen-gogofaster@$(GOGO_VERSION)
	@set -e; for file in $$(git ls-files -co --exclude-standard '*.proto'); do \
		dir=$$(dirname $$file); echo "protoc $$file"; \
		PATH="$(TOOLS):$$PATH" protoc -I $$dir -I $(GOGO_DIR) -I $(GOGO_DIR)/protobuf \
			--gogofaster_out=paths=source_relative:$$dir $$file; \
	done

.PHONY: lint-install
lint-install: # install the linter unless this very version is there
	@$(LINT) version 2>/dev/null | grep -q ' $(LINT_VERSION) ' || \
		GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION)

.PHONY: clean
clean: ## remove what make built and the data of make cluster
	rm -rf bin .tools cluster.deimos

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'
