# Every recipe is one line that also runs by hand. `just` alone lists them.
default:
    @just --list

# what a change must pass before it is offered
check: fmt clippy deny test docs

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets -- -D warnings

deny:
    cargo deny check licenses bans sources

# needs the advisory database; does not know vendor/h2: see vendor/README.md
advisories:
    cargo deny check advisories

test *ARGS:
    cargo test --workspace {{ARGS}}

docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

build:
    cargo build --release

# what is installed and measured: optimised across crates, in target/dist
dist:
    cargo build --profile dist --locked --workspace

# etcd, etcdctl, kube-apiserver and friends from Go modules; about 11 minutes the first time
kit:
    nice -n 10 tests/kubernetes/build

# PD and a store that speaks TiKV's protocol, for tests on TiKV; about 5 minutes the first time
tikv-kit:
    nice -n 10 tests/kits/tikv/build

# every answer of a table of calls, compared with real etcd's
conformance: build
    tests/conformance/etcd/run

# outside judges: the storage tests of k8s.io/apiserver on one brain, on standalone
storage-brain: build
    tests/storage/compare brain all

storage-standalone: build
    tests/storage/compare standalone all

# a real kube-apiserver on one process: smoke, consistency checks, log lines
kubernetes: build
    tests/kubernetes/run smoke standalone

# what a machine runs on every change, from nothing, in at most 45 minutes
ci:
    .ci/run

# everything there is; writes docs/results
full:
    tests/full
