# What each target does: make help

GO ?= go
TOOLS = $(GO) tool -modfile=.ci/tools.mod

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/frostpin
	$(GO) build -trimpath -o bin/frostpin ./cmd/frostpin

.PHONY: test
test: ## run every test that needs nothing but Go and a C compiler
	$(GO) test ./...

.PHONY: race
race: ## run the tests under the race detector
	$(GO) test -race -short -timeout 40m ./...

.PHONY: lint
lint: ## run go vet and golangci-lint
	$(GO) vet ./...
	$(TOOLS) golangci-lint run ./...

.PHONY: fmt
fmt: ## format the code
	$(TOOLS) golangci-lint fmt ./...

.PHONY: generate
generate: ## regenerate what is made from openapi.yaml
	$(GO) generate ./...

.PHONY: golden
golden: ## rewrite the golden files from what the program does now
	$(GO) test ./server ./cmd/frostpin -update

.PHONY: fuzz
fuzz: ## run every fuzz target on INPUTS (20000x)
	.ci/fuzz $(or $(INPUTS),20000x)

.PHONY: e2e
e2e: ## run the end to end tests with long loops
	FROSTPIN_E2E_LONG=1 $(GO) test ./e2e -count=1 -v -timeout 40m -parallel 40

.PHONY: bench
bench: ## print the figures, each beside its floor
	$(GO) run ./cmd/bench

.PHONY: cover
cover: ## write coverage.html
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o coverage.html

.PHONY: vuln
vuln: ## look for known vulnerabilities (asks the Go vulnerability database)
	$(TOOLS) govulncheck ./...

.PHONY: tidy
tidy: ## tidy go.mod and the tools' modules
	$(GO) mod tidy
	$(GO) mod tidy -modfile=.ci/tools.mod

.PHONY: check
check: ## everything that CI runs
	.ci/run
