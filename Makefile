# The commands of this repository. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The whole test run has to end before this; a hung test then shows its goroutines.
TEST_LIMIT := 15m
UNIT_PACKAGES = $$(go list ./... | grep -v '/e2e')

.PHONY: help setup build run test race lint generate e2e chaos reliability soak bench profile gobench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what the tests need and this machine lacks (Redis, Valkey, mosquitto, haproxy, MQTT.js)
	@scripts/setup

build: ## Build bin/signal-device
	go build -o bin/ ./cmd/signal-device

run: build ## Start a demonstration here: broker, API and three simulated cameras
	bin/signal-device demo

test: setup ## Vet, then run every test with the race detector
	go vet ./...
	go test -race -timeout $(TEST_LIMIT) ./...

race: setup ## Run the unit tests three times in a random order with the race detector
	go test -race -shuffle on -count 3 -timeout $(TEST_LIMIT) $(UNIT_PACKAGES)

lint: bin/golangci-lint bin/buf ## Check style and the direction of imports
	bin/golangci-lint run ./...
	bin/buf lint

generate: bin/buf bin/protoc-gen-go bin/protoc-gen-go-grpc ## Make the Go code of the protocol again
	PATH=$(CURDIR)/bin:$$PATH bin/buf generate

e2e: setup ## Run the whole system against clients that are not ours
	go test -race -count 1 -timeout $(TEST_LIMIT) ./e2e

chaos: setup ## Break whole systems under load for 15 minutes, by a random schedule whose seed is printed; writes docs/chaos.md
	@mkdir -p bin
	go run ./e2e/faults/cmd/chaos -for 15m -rate 200 -crowd 500 -chaos docs/chaos.md -html bin/chaos.html

reliability: setup ## Make each fault alone, and the comparison; writes docs/reliability.md (about 8 minutes)
	@mkdir -p bin
	go run ./e2e/faults/cmd/chaos -fault all -compare -each 5s -rate 40 -parallel 2 -seed 1 -doc docs/reliability.md -html bin/reliability.html

soak: setup ## Load without faults for 20 minutes: what the processes hold stays flat; writes docs/soak.md
	@mkdir -p bin
	go run ./e2e/faults/cmd/chaos -for 20m -soak -rate 100 -chaos docs/soak.md -html bin/soak.html

bench: setup build ## Measure whole exchanges beside what others would build; writes docs/performance.md
	bin/signal-device bench --cameras 100 --rate 100 --rounds 3 --duration 10s --warmup 3s --redis start \
	  --against floor,bridge --find-limit --p99 50ms --budget 75s --idle 1000 \
	  --markdown docs/performance.md --html bin/bench.html --json bin/bench.json

profile: setup ## Say where the CPU time of an exchange goes
	scripts/profile

gobench: ## Measure the hot paths of each package by Go benchmarks
	go test -run '^$$' -bench . -benchmem $(UNIT_PACKAGES)

# Tools come from modules of their own, so that their dependencies never mix with those of the program.
bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	go -C tools/lint build -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/buf: tools/proto/go.mod tools/proto/go.sum
	go -C tools/proto build -o $(CURDIR)/$@ github.com/bufbuild/buf/cmd/buf

bin/protoc-gen-go-grpc: tools/proto/go.mod tools/proto/go.sum
	go -C tools/proto build -o $(CURDIR)/$@ google.golang.org/grpc/cmd/protoc-gen-go-grpc

# The generator has the version of the library that runs its code.
bin/protoc-gen-go: go.mod
	go build -o $(CURDIR)/$@ google.golang.org/protobuf/cmd/protoc-gen-go
