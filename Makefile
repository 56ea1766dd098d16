# The targets that matter: demo, test, lint, bench. All of them work on a fresh clone.

GO ?= go
FUZZTIME ?= 10s

export CGO_ENABLED = 0

SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c

# What the program says that it is: the tag of a release, or the commit.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

.PHONY: build deb demo test lint bench fuzz drill interop deps clean

# One static binary.
build:
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/stowage ./cmd/stowage

# A Debian package of it, with units, manual pages and completions.
deb: build
	contrib/deb/build bin/stowage $(VERSION) bin/stowage.deb

# The main job, command by command. IMAGE=alpine does it with a public image.
demo: build
	$(GO) run ./demo $(IMAGE)

# All tests, then those where goroutines meet once more under the race detector, which needs cgo. Bombs
# are inflated by one goroutine, for minutes there: once is enough.
RACED = ./internal/flock ./internal/containerd/... ./internal/filter ./internal/mark ./internal/doctor ./internal/content/... ./internal/kv/... ./internal/metadata/... ./internal/registry/... ./internal/server/... ./internal/snapshot/... ./internal/transfer/... ./internal/unpack/...
test: deps
	$(GO) test -timeout 20m ./...
	CGO_ENABLED=1 $(GO) test -timeout 20m -race -skip '^(TestBomb|TestRatio)$$' $(RACED)

# Programs from Debian that the tests and the benchmark measure us against.
deps:
	@.ci/deps

lint:
	@# vet: calls that compile and are wrong: printf verbs, copied locks, lost cancels.
	$(GO) vet ./...
	@# staticcheck: dead code, misused standard library, deprecated calls; see staticcheck.conf.
	$(GO) tool staticcheck ./...
	@# errcheck: an error that nobody looks at, a lost write above all.
	$(GO) tool errcheck -exclude .errcheck-excludes ./...
	@# ineffassign: a value that is set and never used, often an err of the wrong scope.
	$(GO) tool ineffassign ./...
	@# gofumpt: one layout, so that diffs show changes alone.
	@files=$$($(GO) tool gofumpt -l .); [ -z "$$files" ] || { echo "go tool gofumpt -w" $$files >&2; exit 1; }
	@# tidy: go.mod names what is imported, no more and no less.
	$(GO) mod tidy -diff

# Whole runs beside skopeo, podman and containerd, as a table, then the micro-benchmarks. BENCH=pull
# chooses cases, BENCH_RUNS says how often each runs, BENCH_DIR keeps the images made for it, and
# BENCH_CONTAINERD is a folder with a containerd and ctr of one's own. BENCH=unpack takes root.
bench: build deps
	$(GO) run ./bench
	$(GO) test -run '^$$' -bench . -benchmem -count 6 ./internal/content/... ./internal/kv/... | tee bin/bench.txt
	$(GO) tool benchstat bin/bench.txt

# The long forms of what the tests do for a few seconds: pulls that are killed at random moments,
# KILLS times; cuts of the power, CUTS times; mounts and unpacking that are killed; random operations
# that are killed, before one repair; collections that race others, RACES times each; folders that are
# swapped for links while a layer is applied; SEQUENCES of acts beside a model of what is kept; more
# ingests left open than there can be; and clients of a daemon that is killed every half a minute, for SOAK.
KILLS ?= 500
CUTS ?= 30
RACES ?= 200
SEQUENCES ?= 10000
SOAK ?= 10m
drill:
	$(GO) test -count 1 -timeout 60m -v -run 'TestKilled|TestPowerCuts|TestUnpacksShareTheWork' ./cmd/stowage \
		-kills $(KILLS) -cuts $(CUTS) -unpack-kills 150 -mount-kills 200
	$(GO) test -count 1 -timeout 60m -v -run 'TestRandomKills|TestRace|TestDoctorBesideWork' ./cmd/stowage -random-kills 200 -races $(RACES)
	$(GO) test -count 1 -timeout 60m -v -run 'TestModel' ./internal/gc -sequences $(SEQUENCES)
	$(GO) test -count 1 -timeout 60m -v -run 'Swap' ./internal/layer
	$(GO) test -count 1 -timeout 60m -v -run 'TestHostileIngests' ./internal/server -ingests 10000
	$(GO) test -count 1 -timeout 60m -v -run 'TestSoak' ./cmd/stowage -soak $(SOAK) -soak-life 30s

# The clients of containerd that Debian does not have, on our daemon and on containerd's. CONTRIBUTING.md
# says which they are and how they are named; it fails when one is absent.
interop: deps
	$(GO) test -count 1 -timeout 30m ./test/interop -peers

# Every fuzz target in turn, FUZZTIME each. Large seeds are not minimized for long, which would
# otherwise take most of the time.
fuzz:
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		targets=$$($(GO) test -list '^Fuzz' "$$dir"); \
		for target in $$(grep '^Fuzz' <<<"$$targets"); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$dir"; \
		done; \
	done

clean:
	rm -rf bin
