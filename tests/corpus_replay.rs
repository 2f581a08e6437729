//! What the fuzzers look for, on every test run and without a fuzzer: the bodies of the fuzz targets over the committed
//! corpora, and over inputs that a seeded generator makes of them.
//!
//! Where there is time, `scripts/reliability.sh` has many more made. `TIDEGATE_FUZZ_INPUTS=100000` makes that many for each target, `TIDEGATE_FUZZ_SEED=7` others.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says on what")]
#![expect(unreachable_pub, reason = "the same source is a library for the fuzzers")]

#[path = "../fuzz/src/bodies/mod.rs"]
mod bodies;
#[path = "simulator/simulation/mod.rs"]
mod simulation;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use bodies::{TARGETS, Target};
use simulation::Dice;

/// Inputs that the generator makes for each target, whose bodies take microseconds.
const INPUTS: usize = 120;
/// The same where there is time.
const MANY_INPUTS: usize = 1000;
/// The simulator's bodies take milliseconds.
const WORLDS: usize = 60;
/// Octets of an input at most.
const MOST_BYTES: usize = 4096;
/// What all corpora together may take in the repository.
const CORPORA_BYTES: u64 = 300_000;
const CORPUS_FILES: usize = 30;
/// A tar archive consists of blocks of so many octets.
const TAR_BLOCK: usize = 512;

fn fuzz(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Names and contents of a target's corpus, in order: a tar archive (POSIX.1-1988 ustar) of plain files, as `scripts/fuzz.sh`
/// packs it. Anything else in it fails the test, so that no input is left out unnoticed.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let path = fuzz("corpus").join(format!("{target}.tar"));
    let archive = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text =
        |field: &[u8]| String::from_utf8(field.iter().copied().take_while(|octet| *octet != 0).collect()).unwrap();
    let (mut files, mut at) = (Vec::new(), 0);
    while archive[at..].iter().any(|octet| *octet != 0) {
        let header = &archive[at..at + TAR_BLOCK];
        let name = text(&header[..100]);
        assert_eq!(&header[257..262], b"ustar", "{target}: not a ustar header before {name}");
        assert_eq!(header[156], b'0', "{target}: {name} is not a plain file");
        let number = |field: &[u8]| usize::from_str_radix(text(field).trim(), 8).unwrap();
        let (owner, modified) = (number(&header[108..116]), number(&header[136..148]));
        assert_eq!((owner, modified), (0, 0), "{target}: {name} is not packed by scripts/fuzz.sh --add");
        let bytes = number(&header[124..136]);
        let content = &archive[at + TAR_BLOCK..at + TAR_BLOCK + bytes];
        files.push((name, content.to_vec()));
        at += TAR_BLOCK + bytes.next_multiple_of(TAR_BLOCK);
    }
    assert!(
        files.is_sorted_by(|a, b| a.0 < b.0),
        "{target}: not packed by scripts/fuzz.sh --add: the names are not sorted"
    );
    files
}

/// Runs a body; if it fails, says on what.
fn run((name, body): Target, input: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        eprintln!("{name} fails on {origin}, {} octets: \"{}\"", input.len(), input.escape_ascii());
        resume_unwind(panic);
    }
}

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// An input that resembles those of the corpus, or none of them.
fn made(dice: &mut Dice, corpus: &[(String, Vec<u8>)]) -> Vec<u8> {
    let any = |dice: &mut Dice, most: usize| (0..dice.below(most)).map(|_| dice.below(256) as u8).collect::<Vec<u8>>();
    let mut input =
        if corpus.is_empty() || dice.percent(20) { any(dice, 300) } else { corpus[dice.below(corpus.len())].1.clone() };
    for _ in 0..dice.below(5) {
        let at = dice.below(input.len() + 1);
        let end = at + dice.below((input.len() - at).min(32) + 1);
        let new = match dice.below(6) {
            0 => vec![],
            1 => vec![dice.below(256) as u8; end - at],
            2 => input[at..end].iter().map(|octet| octet ^ (1 << dice.below(8))).collect(),
            3 => input[at..end].repeat(2),
            4 if !corpus.is_empty() => {
                let other = &corpus[dice.below(corpus.len())].1;
                let start = dice.below(other.len() + 1);
                other[start..(start + 64).min(other.len())].to_vec()
            }
            _ => any(dice, 16),
        };
        input.splice(at..end, new);
    }
    input.truncate(MOST_BYTES);
    input
}

fn generated(targets: impl Iterator<Item = Target>, inputs: usize) {
    for target in targets {
        let corpus = corpus(target.0);
        let seed = number("TIDEGATE_FUZZ_SEED").unwrap_or(1);
        let mut dice = Dice::new(seed as u64);
        for i in 0..number("TIDEGATE_FUZZ_INPUTS").unwrap_or(inputs) {
            let input = made(&mut dice, &corpus);
            run(target, &input, &format!("generated input {i} of seed {seed}"));
        }
    }
}

#[test]
fn every_file_of_every_corpus_holds() {
    let mut inputs = 0;
    for target in TARGETS {
        for (name, input) in corpus(target.0) {
            run(*target, &input, &format!("{name} in fuzz/corpus/{}.tar", target.0));
            inputs += 1;
        }
    }
    eprintln!("{inputs} inputs of {} targets", TARGETS.len());
}

#[test]
fn thousands_of_inputs_like_them_hold() {
    generated(TARGETS.iter().copied().filter(|(name, _)| *name != "world"), INPUTS);
}

#[test]
#[ignore = "takes a minute; scripts/reliability.sh runs it"]
fn many_more_inputs_like_them_hold() {
    generated(TARGETS.iter().copied().filter(|(name, _)| *name != "world"), MANY_INPUTS);
}

#[test]
fn worlds_made_of_any_octets_hold() {
    generated(TARGETS.iter().copied().filter(|(name, _)| *name == "world"), WORLDS);
}

#[test]
fn every_body_has_a_driver_and_a_small_corpus_and_nothing_else_is_there() {
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let drivers: BTreeSet<String> = names(&fuzz("targets")).iter().map(|file| file.replace(".rs", "")).collect();
    assert_eq!(drivers, expected);
    let archives = expected.iter().map(|name| format!("{name}.tar")).collect();
    assert_eq!(names(&fuzz("corpus")), archives);
    let manifest = fs::read_to_string(fuzz("Cargo.toml")).unwrap();
    let mut bytes = 0;
    for name in &expected {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name} is not built");
        let files = corpus(name);
        assert!(
            (1..=CORPUS_FILES).contains(&files.len()),
            "{name} has {} files; see scripts/fuzz.sh --keep",
            files.len()
        );
        bytes += files.iter().map(|(_, input)| input.len() as u64).sum::<u64>();
    }
    assert!(bytes <= CORPORA_BYTES, "the corpora take {bytes} bytes; see scripts/fuzz.sh --keep");
}
