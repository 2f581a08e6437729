#!/usr/bin/env bash
# Adds a dialect to a copy of the source by tests/dummy-dialect.patch, which may touch two files below src/core/dialect, and runs the
# core's unit tests there. Fails where a new client protocol needs a change anywhere else.
set -euo pipefail
cd "$(dirname "$0")/.."
patch=$PWD/tests/dummy-dialect.patch
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

die() {
    printf 'dummy-dialect: %s\n' "$*" >&2
    exit 1
}

touched=$(git apply --numstat "$patch" | cut -f3 | sort | paste -sd ' ')
[ "$touched" = "src/core/dialect/dummy.rs src/core/dialect/mod.rs" ] || die "the patch touches $touched, not src/core/dialect/mod.rs and one new file"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy" --
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cd "$copy"
git init --quiet
git apply "$patch" || die "the patch does not apply: make it anew for src/core/dialect/mod.rs"
echo "dialect: building the core with one more dialect"
cargo test --no-run --package tidegate-core
echo "dialect: running its unit tests"
cargo test --quiet --package tidegate-core
echo "dialect: 1 of 1 checks, a new client protocol touches two files"
