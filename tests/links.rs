//! The links in the documentation lead somewhere: each relative link to a file that exists, each anchor to a heading.
#![expect(clippy::unwrap_used, reason = "a page that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages: README, CONTRIBUTING and the like, and docs/.
fn pages() -> Vec<PathBuf> {
    let folders = [root().to_path_buf(), root().join("docs")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut pages: Vec<_> = files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages
}

/// A page's lines outside its code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchors of a page's headings, as forges make them: lower case, without punctuation, a hyphen for each space, and a number
/// behind the second of the same.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let headings = prose(text).filter_map(|line| line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' '));
    let slugs = headings.map(|heading| {
        let kept = heading.trim().chars().filter(|sign| sign.is_alphanumeric() || matches!(sign, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    });
    slugs
        .map(|slug| {
            let count = seen.entry(slug.clone()).and_modify(|count| *count += 1).or_insert(0);
            if *count == 0 { slug } else { format!("{slug}-{count}") }
        })
        .collect()
}

/// The targets of a line's links and images, outside of code.
fn targets(line: &str) -> Vec<&str> {
    // A link's text may be code: what counts is where the target stands.
    let in_code = |at: usize| line[..at].matches('`').count() % 2 == 1;
    let found = line.match_indices("](").filter(|(at, _)| !in_code(*at));
    found.filter_map(|(at, _)| line[at + 2..].split(')').next()).collect()
}

/// What is wrong with the links of a page, whose text is given.
fn broken(page: &Path, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for target in prose(text).flat_map(targets) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() { page.to_path_buf() } else { page.parent().unwrap().join(file) };
        if !path.exists() {
            broken.push(format!("{}: no file {target}", page.display()));
        } else if !anchor.is_empty() {
            let known = if file.is_empty() { text.to_owned() } else { std::fs::read_to_string(&path).unwrap() };
            if !anchors(&known).iter().any(|known| known == anchor) {
                broken.push(format!("{}: no heading {target}", page.display()));
            }
        }
    }
    broken
}

#[test]
fn every_relative_link_and_anchor_in_the_documentation_exists() {
    let pages = pages();
    assert!(pages.len() > 9, "the pages were found: {pages:?}");
    let broken: Vec<String> =
        pages.iter().flat_map(|page| broken(page, &std::fs::read_to_string(page).unwrap())).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_link_to_a_missing_file_or_heading_is_found() {
    let text = "# One\n## Two, three\n## One\n[a](#two-three) [`b`](SECURITY.md) [c](#one-1) [d](https://example.org/none)\n\
                `[code](none.md)`\n```\n[code](none.md)\n```\n[x](none.md) [y](#four) [z](SECURITY.md#none)\n";
    let page = root().join("README.md");
    let named: Vec<String> =
        broken(&page, text).iter().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(named, ["none.md", "#four", "SECURITY.md#none"]);
}

#[test]
fn the_index_of_the_documentation_lists_every_page() {
    let index = std::fs::read_to_string(root().join("docs/README.md")).unwrap();
    for page in pages().iter().filter(|page| page.parent().unwrap().ends_with("docs")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "docs/README.md does not list {name}");
    }
}
