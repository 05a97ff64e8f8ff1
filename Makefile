# Targets are verbs; `make help` lists them. `make verify` is what CI runs.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# The version is stamped by the linker, below; a checkout that git does not trust must still build.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

# Tests that boot clusters need root and the machine to themselves: they run one after the other, after all the others.
founding_tests  = ./internal/playground/cluster/... ./test/e2e/...
cluster_tests   = ./internal/playground/cluster/... ./test/...
unit_tests      = $(shell $(GO) list -e ./... | grep -vE '^yurt/(internal/playground/cluster|test)(/|$$)')
run_on_clusters = $(GO) test -count=1 -v -p 1 -timeout 30m $(if $(RUN),-run '$(RUN)')

# The older Kubernetes that everything must work with, and what of the founding scenario depends on it most.
OLDER       = 1.34
older_tests = ^Test(KubectlCannotTell|PodsComeBackInTheDark|RestartsInTheDark|ConvergesAfterTheCut|CutDuringTheFirstList|WatchesOutliveOutages)$$

# make e2e K8S=1.34 reaches the tests, and the playground, through the environment.
export K8S

# So do SEED and SOAK the fault tests; without FAULTS=full they do a small part, as in CI.
export SEED
export SOAK

golangci_lint = $(GO) tool -modfile=tools/go.mod golangci-lint

root := $(filter 0,$(shell id -u))

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: prepare ## Show a node that survives an outage, a power cut and a boot in the dark (needs root)
	$(GO) run ./cmd/demo

.PHONY: test
test: unit ## Run the unit tests, and the founding scenario on a real cluster (left out without root)
ifdef root
	$(run_on_clusters) $(founding_tests)
else
	@echo 'left out: the tests on real clusters need root; run: sudo env "PATH=$$PATH" make test'
	@test "$$CI" != true
endif

.PHONY: unit
unit: $(if $(root),prepare) ## Run the quick tests: all but those that need the machine to themselves
	$(GO) test -timeout 15m $(unit_tests)
	$(GO) -C deploy/verify test ./...
	$(GO) -C deploy/monitoring test ./...
	$(GO) -C build/release test ./...

.PHONY: e2e
e2e: prepare ## Run all tests on real clusters (needs root); RUN=TestName picks some, K8S=1.34 another Kubernetes
	$(run_on_clusters) $(cluster_tests)

.PHONY: e2e-older
e2e-older: ## Run the founding scenario, and the controllers, with the older Kubernetes (needs root)
	K8S=$(OLDER) $(GO) run ./cmd/playground prepare
	K8S=$(OLDER) $(run_on_clusters) -run '$(older_tests)' ./test/e2e
	K8S=$(OLDER) $(run_on_clusters) -run RetentionIsOff ./test/cloud/fleet

.PHONY: scale
scale: prepare ## Measure the cloud's controllers on a fleet of NODES (5000) hollow nodes (needs root, takes half an hour)
	$(GO) test -count=1 -v -timeout 60m -run TestScale ./test/cloud/fleet -nodes $(or $(NODES),5000)

.PHONY: race
race: $(if $(root),prepare) ## Run the quick tests under the race detector, in random order
	$(GO) test -race -shuffle=on -timeout 20m $(unit_tests)

.PHONY: faults
faults: prepare ## Cut the power, fill the disk and more, for at most 15 minutes (needs root); SOAK=8h goes on for so long, SEED=n repeats
	FAULTS=full $(GO) test -count=1 -v -p 1 -timeout 0 $(if $(RUN),-run '$(RUN)') ./test/faults/...

.PHONY: fuzz
fuzz: ## Fuzz each target in turn for FUZZTIME (1m)
	@set -e; grep -ro 'func Fuzz[A-Za-z0-9]*' --include='*_test.go' internal | while IFS=: read -r file func; do \
		$(GO) test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(or $(FUZZTIME),1m) "./$$(dirname "$$file")" </dev/null; done

.PHONY: bench
bench: prepare ## Measure the hub beside the API server in 15 minutes (needs root); ARGS='--rows 5,9 --gateway name=URL,pid=N --out FILE'
	$(GO) run ./bench run $(ARGS)

.PHONY: bench-quick
bench-quick: ## Compare ratios with those of bench/baseline.json: less than two minutes, and no root
	$(GO) run ./bench quick

.PHONY: build
build: ## Build static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X yurt/internal/version.number=$(VERSION)' -o bin/ ./cmd/...

.PHONY: release
release: ## Build binaries, Debian packages, images, bills of materials and checksums into dist/
	$(GO) -C build/release run . -source $(CURDIR) -out $(CURDIR)/dist -version $(VERSION) -epoch $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: prepare
prepare: ## Install and build what demo and tests need: Debian packages, Kubernetes, etcd, containerd, CoreDNS
	$(GO) run ./cmd/playground prepare

.PHONY: up
up: prepare ## Boot a playground: a real Kubernetes with an edge node behind YurtHub and a bare one
	$(GO) run ./cmd/playground up

.PHONY: down
down: ## Take the playground down, whatever state it is in
	$(GO) run ./cmd/playground down

.PHONY: verify
verify: check vet lint prepare bench-quick race unit e2e e2e-older ## Run everything that CI runs, cheap checks first

.PHONY: check
check: ## Check that sources are formatted and modules are tidy and untouched
	@files=$$(gofmt -s -l .); test -z "$$files" || { echo "not formatted (make format):"; echo "$$files"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) -C tools mod tidy -diff
	$(GO) -C deploy/verify mod tidy -diff
	$(GO) -C deploy/monitoring mod tidy -diff
	$(GO) -C build/release mod tidy -diff
	$(GO) mod verify

.PHONY: format
format: ## Format the sources
	gofmt -s -w .

.PHONY: vet
vet: ## Run go vet
	$(GO) vet ./...

.PHONY: lint
lint: ## Run the linters of .golangci.yaml
	$(golangci_lint) run

.PHONY: clean
clean: ## Remove what was built in the checkout (built Kubernetes binaries stay in the user's cache)
	rm -rf bin dist
