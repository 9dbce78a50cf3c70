# What a developer types. `make` alone lists it.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 20s
BENCHFLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help build web demo test test-deps lint fmt bench fuzz

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./penstock, with the pages that `make web` has built
	go build ./cmd/penstock

web: internal/web/dist/index.html ## build the server's pages, if they have changed

internal/web/dist/index.html: $(shell find web -path web/node_modules -prune -o -type f -print)
	cd web && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build && npm run --silent test

demo: ## install what is missing, build, and start a server where the example runs
	@scripts/demo

test: test-deps web build lint ## everything that CI checks: install what the tests need, lint, run every test
	go test -race -timeout 40m ./...

test-deps: ## install what the tests need
	@scripts/test-deps

lint: ## gofmt, go vet, staticcheck (staticcheck.conf)
	@unformatted=$$(gofmt -l bench cmd examples/*.go internal); if [ -n "$$unformatted" ]; then echo "run make fmt:" $$unformatted >&2; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

fmt: ## format the Go files
	gofmt -w bench cmd examples/*.go internal

bench: ## measure against act and plain commands (BENCHFLAGS='-quick -run REGEXP -n RUNS')
	go run ./bench $(BENCHFLAGS)

fuzz: ## run every fuzz target for FUZZTIME (20s)
	@scripts/fuzz $(FUZZTIME)
