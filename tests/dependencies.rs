//! What of the dependencies is in the binary. deny.toml ignores advisories for code that is not: this holds that.

use std::collections::BTreeSet;

/// Crates with their versions, such as `rustls-0.23.46`, that a binary names in the source paths of its panics. A crate without a
/// panic or debug information would not show; a TLS library has hundreds of them.
fn named(binary: &[u8], crates: &[&str]) -> BTreeSet<String> {
    let text: String = binary.iter().map(|octet| if octet.is_ascii_graphic() { *octet as char } else { ' ' }).collect();
    let paths = text.split(' ').flat_map(|word| word.split('/')).filter(|part| {
        crates.iter().any(|name| {
            let version = part.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
        })
    });
    paths.map(str::to_owned).collect()
}

/// monoio-http depends on rustls 0.21, whose rustls-webpki 0.101 has advisories that deny.toml ignores. None of it may be linked:
/// TLS to the broker is rustls 0.23.
#[test]
fn the_binary_holds_no_code_of_rustls_0_21_and_none_of_its_webpki() {
    let binary = std::fs::read(env!("CARGO_BIN_EXE_tidegate")).unwrap();
    let found = named(&binary, &["rustls", "rustls-webpki", "sct", "monoio-rustls"]);
    assert!(found.iter().any(|name| name.starts_with("rustls-0.23.")), "it does not name what it holds: {found:?}");
    assert!(found.iter().any(|name| name.starts_with("rustls-webpki-0.103.")), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_crate_is_found_by_its_name_and_version_in_a_path() {
    let binary = b"\0/x/registry/src/index/rustls-0.21.12/src/conn.rs\0rustls-pki-types-1.15.1/a rustls-x rustls";
    assert_eq!(named(binary, &["rustls"]), BTreeSet::from([String::from("rustls-0.21.12")]));
}
