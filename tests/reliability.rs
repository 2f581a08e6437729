//! What scripts/reliability.sh judges by can fail: the unit tests of its judgement.

use std::path::Path;
use std::process::Command;

#[test]
fn a_p99_over_its_bound_beside_a_hostile_client_fails_the_reliability_script() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/reliability");
    let mut python = Command::new("python3");
    python.args(["-B", "-m", "unittest", "test_bounds"]).current_dir(folder);
    let tested = python.output().unwrap_or_else(|error| panic!("python3 does not run ({error}): install Python 3.11"));
    let said = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{said}");
    // Without a test it would succeed as well.
    assert!(said.contains("Ran 11 tests"), "{said}");
}
