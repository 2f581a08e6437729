//! `tidegate.toml`: from its text to typed values that know their lines.

use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::auth;
use super::keys::{SETTINGS, Setting};
use super::origin::{Occurrence, Origin, Problem, nearest, suggestion};
use super::tables::{self, Tables};
use tidegate_core::setting::Value;

/// Lists of tables.
const LISTS: [&str; 4] = ["routes", "rooms", "auth.issuers", "auth.grants"];

/// What the file says.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) occurrences: Vec<Occurrence>,
    pub(super) tables: Tables,
    pub(super) problems: Vec<Problem>,
}

/// Turns offsets of the text into places.
pub(super) struct Places<'a> {
    pub(super) path: &'a str,
    text: &'a str,
}

impl Places<'_> {
    pub(super) fn at(&self, span: &Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        Origin::File { path: self.path.to_owned(), line: before.matches('\n').count() + 1 }
    }
}

/// Reads `text`, the contents of the file called `path`.
pub(super) fn read(path: &str, text: &str) -> Contents {
    let places = Places { path, text };
    let mut contents = Contents::default();
    match DeTable::parse(text) {
        Ok(document) => walk(document.get_ref(), "", &places, &mut contents),
        Err(error) => {
            let origin = places.at(&error.span().unwrap_or(0..0));
            contents.problems.push(Problem::at(&origin, format!("this is not valid TOML: {}", error.message().trim())));
        }
    }
    // The parser sorts by key; people read by line.
    contents.occurrences.sort_by_key(|occurrence| match occurrence.origin {
        Origin::File { line, .. } => line,
        _ => 0,
    });
    contents
        .problems
        .sort_by_key(|problem| problem.place.rsplit(':').next().and_then(|line| line.parse::<usize>().ok()));
    contents
}

fn walk(table: &DeTable<'_>, section: &str, places: &Places<'_>, contents: &mut Contents) {
    for (key, value) in table {
        let name = if section.is_empty() { key.get_ref().to_string() } else { format!("{section}.{}", key.get_ref()) };
        let origin = places.at(&key.span());
        match value.get_ref() {
            DeValue::Array(items) if name == "routes" => tables::routes(items, places, contents),
            DeValue::Array(items) if name == "rooms" => tables::rooms(items, places, contents),
            DeValue::Array(items) if name == "auth.issuers" => auth::issuers(items, places, contents),
            DeValue::Array(items) if name == "auth.grants" => auth::grants(items, places, contents),
            DeValue::Table(inner) if is_section(&name) => walk(inner, &name, places, contents),
            other => match known(&name) {
                Some((setting, in_file)) => take(setting, in_file, name, other, origin, contents),
                None => contents.problems.push(match other {
                    DeValue::Table(_) => unknown_section(&name, &origin),
                    _ => misplaced(&name, &origin).unwrap_or_else(|| unknown(&name, &origin)),
                }),
            },
        }
    }
}

fn take(
    setting: &'static Setting,
    in_file: bool,
    typed: String,
    value: &DeValue<'_>,
    origin: Origin,
    contents: &mut Contents,
) {
    match typed_value(value) {
        Ok(Value::Text(path)) if in_file => {
            contents.occurrences.push(Occurrence { setting, typed, value: Value::InFile(PathBuf::from(path)), origin });
        }
        Ok(_) if in_file => {
            contents.problems.push(Problem::at(&origin, format!("{typed}: must be the path of a file")))
        }
        Ok(value) => contents.occurrences.push(Occurrence { setting, typed, value, origin }),
        Err(offence) => contents.problems.push(Problem::at(&origin, format!("{typed}: {offence}"))),
    }
}

/// The value as the settings read it.
pub(super) fn typed_value(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Boolean(value) => Ok(Value::Boolean(*value)),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map(Value::Integer)
            .map_err(|_| String::from("the number is too large")),
        DeValue::Array(items) => items.iter().map(text_item).collect::<Result<_, _>>().map(Value::List),
        DeValue::Float(_) => Err(String::from("fractions are not taken; give a whole number, or text with a unit")),
        DeValue::Datetime(_) => Err(String::from("dates are not taken")),
        DeValue::Table(_) => Err(String::from("is one value, not a table")),
    }
}

fn text_item(item: &Spanned<DeValue<'_>>) -> Result<String, String> {
    item.get_ref().as_str().map(str::to_owned).ok_or_else(|| String::from("the list must hold texts in quotes"))
}

/// The setting that a key names, and whether the key names a file that holds it.
fn known(key: &str) -> Option<(&'static Setting, bool)> {
    let by_key = |key: &str| SETTINGS.iter().find(|setting| setting.keys.iter().any(|known| known == key));
    if let Some(setting) = by_key(key) {
        return Some((setting, false));
    }
    by_key(key.strip_suffix("_file")?).filter(|setting| setting.is_secret()).map(|setting| (setting, true))
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().flat_map(|setting| &setting.keys).any(|key| key.split_once('.').is_some_and(|(s, _)| s == name))
}

/// Every key that the file may hold.
fn keys() -> impl Iterator<Item = String> {
    let secret_files = SETTINGS.iter().filter(|s| s.is_secret()).map(|s| format!("{}_file", s.keys[0]));
    SETTINGS
        .iter()
        .flat_map(|setting| &setting.keys)
        .map(ToString::to_string)
        .chain(secret_files)
        .chain(LISTS.map(String::from))
}

/// A value where a section or a list must stand.
fn misplaced(name: &str, origin: &Origin) -> Option<Problem> {
    if LISTS.contains(&name) {
        return Some(Problem::at(origin, format!("{name} is a list of tables; write [[{name}]]")));
    }
    is_section(name).then(|| Problem::at(origin, format!("{name} is a section; write [{name}]")))
}

fn unknown_section(name: &str, origin: &Origin) -> Problem {
    let sections = keys().filter_map(|key| Some(key.split_once('.')?.0.to_owned()));
    let near = nearest(name, sections.chain(LISTS.map(String::from)));
    let help = suggestion(near, "`tidegate serve --print-config` lists all sections");
    Problem::at(origin, format!("unknown section \"{name}\"; {help}"))
}

fn unknown(key: &str, origin: &Origin) -> Problem {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    // A right name in the wrong section is the likeliest mistake.
    let near = nearest(&last(key), keys().map(|known| last(&known)))
        .and_then(|name| {
            nearest(key, keys().filter(|known| last(known) == name)).or_else(|| keys().find(|k| last(k) == name))
        })
        .or_else(|| nearest(key, keys()));
    Problem::at(
        origin,
        format!("unknown key \"{key}\"; {}", suggestion(near, "`tidegate serve --print-config` lists all keys")),
    )
}
