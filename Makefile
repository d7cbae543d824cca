# Bare `make` prints the targets. CI runs only these.
.DEFAULT_GOAL := help
SHELL    := /bin/bash
GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unreleased)
LDFLAGS  := -s -w -X mailnode/node/cli.version=$(VERSION)
FUZZTIME ?= 20s

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/mailnode: one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/mailnode .

demo: build ## three nodes on loopback, users, mail; ARGS="..." goes to the command
	bin/mailnode demo $(ARGS)

# -race needs C; production runs without, so the store is tested that way too. The system tier (node/cli/system_test.go) has time limits: it runs alone.
test: ## vet, all tests under the race detector, the store without C
	$(GO) vet ./...
	$(GO) test -race -timeout 15m -skip '^TestSystem' ./...
	$(GO) test -race -timeout 5m -run '^TestSystem' ./node/cli
	CGO_ENABLED=0 $(GO) test -timeout 5m ./storage/...
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 5m ./failover/sim -seeds 10000 -faults

# Not a tool directive of go.mod: a linter's requirements must not choose the versions that ship.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
lint: ## gofmt, vet, go.mod tidy, nothing unused, and the style tests (lint_test.go)
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) -checks U1000 ./...
	$(GO) test -count=1 -run '^(TestLint|TestStyle)' .

fuzz: ## each fuzz target for FUZZTIME (20s)
	@set -e; for f in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$f); do (set -x; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x ./$$(dirname $$f)); \
	done; done

crash: ## power loss, bit flips, faults of the disk: DURATION (10m) each, or ROUNDS seeds from SEED
	@set -o pipefail; for lane in SurvivesPowerLoss KilledAndThen EveryFlippedBit FaultAtEvery ReadErrorIs; do \
	  DURATION=$${DURATION:-10m} $(GO) test -count=1 -timeout 0 -v -run "$$lane" ./storage/local | sed '/=== \|--- PASS: .*SEED/d' || exit 1; done

sim: ## law 1 and 4 in SEEDS (100000) simulated runs from SEED (1), then each known fault put back
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -v ./failover/sim -seeds $${SEEDS:-100000} -seed $${SEED:-1} -faults
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 -run TestModelCopies ./storage/repl -seeds $$(( $${SEEDS:-100000} / 100 )) -seed $${SEED:-1} -words 60

long: ## every test that is too long for make test (TestLong...); RUN=TestLongName for one
	MAILNODE_LONG=1 $(GO) test -count=1 -p 1 -timeout 0 -v -run '^$(or $(RUN),TestLong)' ./...

kill: ## kill -9 under full delivery load, ROUNDS (50) of it, then every message is looked for
	MAILNODE_KILL_ROUNDS=$${ROUNDS:-50} $(GO) test -count=1 -timeout 0 -v -run '^TestSystemKillLoop$$' ./node/cli

soak: ## three nodes at full delivery rate for DURATION (5m): nothing over 500 ms, no slot unprotected
	MAILNODE_SOAK=$(or $(DURATION),5m) $(GO) test -count=1 -timeout 0 -v -run '^TestLaw01Soak$$' ./node

attack: ## one address attacks three nodes for DURATION (1m), on idle cores: others' logins, and Raft's leader
	MAILNODE_ATTACK=$(or $(DURATION),1m) $(GO) test -count=1 -timeout 0 -v -run '^TestAttackFromOneAddress$$' ./node

bench: build ## deliveries, IMAP mixes, failover time; needs ../shared/mailbench, else says so
	packaging/bench.sh

bench-restart: ## 40 slots of 100,000 messages: clean stop, kill -9, memory; DIR=/path keeps them
	CGO_ENABLED=0 MAILNODE_RESTART=$(or $(DIR),1) $(GO) test -count=1 -v -timeout 90m -run '^TestRestart$$' ./node

bench-storage: ## deliveries through the storage API beside the limits of a real disk: BENCH_STORAGE=folder, else bin
	@dir="$${BENCH_STORAGE:-$(CURDIR)/bin}"; mkdir -p "$$dir"; case "$$(stat -f -c %T "$$dir")" in tmpfs|ramfs) \
	  echo "$$dir is in memory: set BENCH_STORAGE to a folder on a disk"; exit 1;; esac; \
	  BENCH_STORAGE="$$dir" $(GO) test -count=1 -timeout 30m -run '^TestBenchStorage$$' -v ./storage/local

proto: ## generate *.pb.go (needs protoc, protoc-gen-go, protoc-gen-go-grpc)
	@set -e; for f in $$(find . -name '*.proto' -not -path './.git/*'); do (cd "$$(dirname $$f)" && protoc --go_out=. \
	  --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative "$$(basename $$f)"); done

clean: ## remove what build and demo made
	rm -rf bin demo && $(GO) clean -testcache

.PHONY: help build demo test lint fuzz crash sim long kill soak attack bench bench-restart bench-storage proto clean
