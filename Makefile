# Everything a developer runs. `make help` lists it. Only Go, make and git are needed.

SHELL := /bin/bash
GO    ?= go
TOOL  := $(GO) tool -modfile=tools/go.mod
# The race detector needs a C compiler; without one the tests run without it, and say so.
RACE  := $(shell command -v "$$($(GO) env CC)" >/dev/null 2>&1 && echo -race)
SEEDS ?= 1000
FIRST ?= 0
FOCUS ?=
DATA  ?=
CHAOS ?=
SCENARIO ?=
KILLS  ?=
CUTS   ?= 100
FLIPS  ?= 500
STOPS  ?= 8
FULLS  ?= 4
STALLS ?= 6
SEED   ?= 0
BACKLOG ?=
DIR    ?=
QUICK  ?=
UPDATE ?=
# Modules of their own, for the drivers of databases and the message queues that they have.
OWN_MODULES := runtime/mqsql/sqltest examples/bank bench/peers

.DEFAULT_GOAL := help
.PHONY: help build demo test test-breaking test-init lint generate bench bench-go bench-peers ratios measure-schedule measure-store bench-store stress mutants crash clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/mq, bin/protoc-gen-mq, bin/buf-plugin-mq and the examples
	$(GO) build -o bin/ ./sidecar/cmd/mq ./protoc-gen-mq ./buf-plugin-mq ./examples/flights ./examples/scenarios
	$(GO) -C examples/bank build -o $(CURDIR)/bin/bank .

demo: build ## 20,000 flights through a real sidecar, DATA=file.json for real ones, CHAOS=1 to kill it; or SCENARIO=all for each promise about delivery, SCENARIO=bank for KILLS=100 in half a minute
ifeq ($(SCENARIO),bank)
	bin/bank demo --mq bin/mq --kills $(or $(KILLS),100)
else ifdef SCENARIO
	bin/scenarios --mq bin/mq $(SCENARIO)
else
	bin/flights demo --mq bin/mq $(if $(DATA),--data $(DATA)) $(if $(CHAOS),--kill)
endif

test: ## all tests, with the race detector where there is a C compiler
	@$(if $(RACE),true,echo "no C compiler: testing without the race detector")
	$(GO) test $(RACE) ./...
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || echo "no PostgreSQL: skipping what is tested on it"
	@for m in $(OWN_MODULES); do $(GO) -C $$m test $(RACE) -timeout 5m ./... || exit 1; done

test-breaking: ## buf breaking with our plugin on testdata: each change of a contract fails with one line, each safe one passes
	$(GO) build -o bin/ ./buf-plugin-mq
	@$(GO) -C buf-plugin-mq test -count 1 -timeout 5m -run TestBuf -args -buf "$$($(TOOL) -n buf)" -plugin "$(CURDIR)/bin/buf-plugin-mq"
test-init: ## write a project with mq init and run its tests; needs a module proxy
	$(GO) test -tags testinit -timeout 10m -count 1 -run InitProject ./sidecar/cmd/mq

lint: ## gofmt, go vet, staticcheck, buf lint
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '/gen/')); test -z "$$out" || { echo "gofmt -w these files:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	@staticcheck=$$($(TOOL) -n staticcheck) && for m in $(OWN_MODULES); do $(GO) -C $$m vet ./... && (cd $$m && $$staticcheck ./...) || exit 1; done
	$(TOOL) buf lint

generate: ## write all generated code anew
	$(TOOL) buf generate
	$(TOOL) buf generate --template examples/flights/buf.gen.yaml
	$(TOOL) buf generate --template examples/scenarios/buf.gen.yaml
	$(TOOL) buf generate --template sidecar/crash/buf.gen.yaml
	$(TOOL) buf generate --template examples/bank/buf.gen.yaml
	$(TOOL) buf generate --template bench/buf.gen.yaml
	$(GO) test -count 1 -run TestReference . -update

bench: ## clients and a sidecar, each in its process: a table of throughput, latency and cost, with what must hold and the ratios to raw limits; JSON and a plot in bench/results. BACKLOG=n, DIR=directory on the disk to measure; QUICK=1 takes a minute and only shows that it works
	$(GO) build -o bin/ ./sidecar/cmd/mq ./bench/cmd/mqbench
	$(GO) test -c -o bin/bench-store ./sidecar/internal/engine/pebbleengine
	$(GO) test -c -tags measure -o bin/bench-etcd ./sidecar/internal/cluster/etcdcluster
	@mkdir -p bench/results
	@bin/mqbench -suite $(if $(QUICK),quick,full) $(if $(BACKLOG),-backlog $(BACKLOG)) $(if $(DIR),-dir $(DIR)) -store bin/bench-store -etcd bin/bench-etcd -json bench/results/latest.json -svg bench/results/latest.svg

bench-go: ## Go benchmarks of the core, the engines, the filters and the SDK
	$(GO) test -run '^$$' -bench . -benchmem ./internal/... ./sidecar/... ./runtime/...

ratios: ## what hot paths cost beside raw limits measured in the same run: fails if one costs over 20 % more than bench/ratios.json says; UPDATE=1 writes that anew
	UPDATE=$(UPDATE) $(GO) test -tags ratios -timeout 5m -count 1 -v -run 'Ratios|Verdict' ./sidecar/internal/bench

bench-peers: ## the same work on NATS JetStream, Redis Streams and RabbitMQ, those that are installed, in the same run; ends with a ratio for each. ROUNDS=3
	$(GO) build -o bin/ ./sidecar/cmd/mq ./bench/cmd/mqbench
	$(GO) -C bench/peers build -o $(CURDIR)/bin/peers .
	@bin/peers -rounds $(or $(ROUNDS),3)

measure-schedule: ## what a million scheduled messages cost in memory, at a restart and when they are due
	$(GO) test -tags measure -timeout 10m -count 1 -v -run MeasureSchedule ./sidecar/internal/broker

measure-store: ## what Pebble alone makes of damage, what the engine writes for each byte, and what a fetch costs after millions
	$(GO) test -tags measure -timeout 10m -count 1 -v -run 'Measure(Facts|Amplification|Fetch)' ./sidecar/internal/engine/pebbleengine

bench-store: ## what a backlog costs: start after kill -9, memory, bytes written, and a fetch after 10 million settled messages (STORE_MESSAGES)
	$(GO) test -tags measure -timeout 15m -count 1 -v -run MeasureStore ./sidecar

stress: build ## SEEDS simulated worlds from FIRST on (FOCUS=crash for one kind), random conversations with the core, demos with a killed sidecar
	SEEDS=$(SEEDS) FIRST=$(FIRST) FOCUS=$(FOCUS) $(GO) test -count 1 -timeout 60m -v -run 'TestSeeds$$' ./sidecar/internal/sim | grep -v '^=== '; exit $${PIPESTATUS[0]}
	SEEDS=$(SEEDS) $(GO) test -count 1 -timeout 60m -run RandomEvents ./sidecar/internal/dispatch
	for i in 1 2 3 4 5; do bin/flights demo --mq bin/mq --kill || exit 1; done

mutants: ## put each seeded bug in, one after the other, and see the simulation catch it
	$(GO) test -tags mutants -count 1 -timeout 20m -v -run 'TestMutants$$' ./sidecar/internal/sim

crash: ## mq serve under load: KILLS, CUTS of the power, FLIPS of bits, STOPS, FULLS of the disk, STALLS of syncs; SEED=n for the same faults again. Needs root and /dev/fuse
	$(GO) build -o bin/ ./sidecar/cmd/mq
	$(GO) -C sidecar/crash build -o $(CURDIR)/bin/crash .
	@bin/crash -mq bin/mq -kills $(or $(KILLS),50) -cuts $(CUTS) -flips $(FLIPS) -stops $(STOPS) -fulls $(FULLS) -stalls $(STALLS) -seed $(SEED)

clean: ## remove what was built
	rm -rf bin
