#!/usr/bin/env bash
# Adds a broker to a copy of the source by tests/dummy-broker.patch, which may touch two files below src/gateway/broker, and runs the brokers'
# unit tests there. Fails where a new broker needs a change anywhere else, and where docs/new-broker.md shows another one.
set -euo pipefail
cd "$(dirname "$0")/.."
patch=$PWD/tests/dummy-broker.patch
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

die() {
    printf 'dummy-broker: %s\n' "$*" >&2
    exit 1
}

touched=$(git apply --numstat "$patch" | cut -f3 | sort | paste -sd ' ')
[ "$touched" = "src/gateway/broker/dummy.rs src/gateway/broker/mod.rs" ] || die "the patch touches $touched, not src/gateway/broker/mod.rs and one new file"
example() { sed -n '/^+\?impl Broker for Dummy/,/^+\?}$/{s/^+//;p}' "$1"; }
diff <(example docs/new-broker.md) <(example "$patch") || die "the example of docs/new-broker.md is not the broker of the patch"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy" --
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cd "$copy"
git init --quiet
git apply "$patch" || die "the patch does not apply: make it anew for src/gateway/broker/mod.rs"
echo "broker: building the gateway with one more broker"
cargo test --no-run --lib
echo "broker: running its unit tests"
cargo test --quiet --lib broker::
echo "broker: 2 of 2 checks, a new broker touches two files and is the one that the guide shows"
