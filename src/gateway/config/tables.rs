//! `[[routes]]` and `[[rooms]]`: lists of the file whose items have keys of their own. Those of `[auth]` are in [`super::auth`].

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::auth::{Grant, TokenIssuer};
use super::file::{Contents, Places, typed_value};
use super::origin::{Origin, Problem, nearest, suggestion};

use tidegate_core::auth::Who;
use tidegate_core::dialect::DialectId;
use tidegate_core::model::valid_room;
use tidegate_core::setting::{Value, quoted};
use tidegate_core::shard::{RoomRule, Route, SlowPolicy};

/// The lists, each item with its place.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) routes: Vec<(Route, Origin)>,
    pub(super) rooms: Vec<(RoomRule, Origin)>,
    pub(super) issuers: Vec<(TokenIssuer, Origin)>,
    pub(super) grants: Vec<(Grant, Origin)>,
}

pub(super) const JOIN: [(&str, Who); 4] =
    [("any", Who::Any), ("users", Who::Users), ("token", Who::Token), ("none", Who::None)];
pub(super) const PUBLISH: [(&str, Who); 5] =
    [("any", Who::Any), ("users", Who::Users), ("members", Who::Members), ("token", Who::Token), ("none", Who::None)];
pub(super) const SLOW: [(&str, SlowPolicy); 2] =
    [("close", SlowPolicy::Close), ("drop-oldest", SlowPolicy::DropOldest)];

/// Reads `[[routes]]`.
pub(super) fn routes(items: &DeArray<'_>, places: &Places<'_>, contents: &mut Contents) {
    for (table, origin) in each("routes", items, places, &mut contents.problems) {
        let mut item =
            Item::of("routes", table, &["path", "dialect", "room", "subprotocol"], places, &mut contents.problems);
        let path = item.required("path", "/ws", checked_path);
        let dialect = item.required("dialect", "raw", |value| value.choice(&dialects()));
        let room = item.read("room", |value| checked_room(&value.text()?));
        let subprotocol = item.read("subprotocol", checked_subprotocol);
        let taken = contents.tables.routes.iter().find(|(route, _)| Some(&route.path) == path.as_ref());
        if let Some((route, first)) = taken {
            item.wrong(format!("routes: the path {} is routed at {first} already", route.path));
        }
        let dialect = dialect.filter(|dialect| {
            if dialect.has_room() && room.is_none() && !item.has("room") {
                item.wrong(format!("routes: a {} route needs its room: room = \"chat\"", dialect.name()));
            } else if !dialect.has_room() && room.is_some() {
                item.wrong(format!("routes: dialect = \"{}\" has no room; remove it", dialect.name()));
            }
            dialect.has_room() == room.is_some()
        });
        if let (Some(path), Some(dialect)) = (path, dialect) {
            contents.tables.routes.push((Route { path, dialect, room, subprotocol }, origin));
        }
    }
}

/// Reads `[[rooms]]`.
pub(super) fn rooms(items: &DeArray<'_>, places: &Places<'_>, contents: &mut Contents) {
    for (table, origin) in each("rooms", items, places, &mut contents.problems) {
        let mut item = Item::of("rooms", table, &["match", "join", "publish", "slow"], places, &mut contents.problems);
        let pattern = item.required("match", "dash.*", checked_pattern);
        let join = item.read("join", |value| value.choice(&JOIN));
        let publish = item.read("publish", |value| value.choice(&PUBLISH));
        let slow = item.read("slow", |value| value.choice(&SLOW)).unwrap_or_default();
        let Some(pattern) = pattern else { continue };
        if let Some((rule, first)) = contents.tables.rooms.iter().find(|(rule, _)| covers(&rule.pattern, &pattern)) {
            item.wrong(format!(
                "rooms: \"{pattern}\" can never match, because \"{}\" at {first} matches first; put the narrower rule first",
                rule.pattern
            ));
        }
        contents.tables.rooms.push((RoomRule { pattern, join, publish, slow }, origin));
    }
}

fn dialects() -> Vec<(&'static str, DialectId)> {
    DialectId::ALL.iter().map(|dialect| (dialect.name(), *dialect)).collect()
}

/// Whether every room that `later` matches is matched by `earlier`.
fn covers(earlier: &str, later: &str) -> bool {
    match earlier.strip_suffix('*') {
        Some(prefix) => later.trim_end_matches('*').starts_with(prefix),
        None => earlier == later,
    }
}

pub(super) fn each<'a, 'i>(
    list: &str,
    items: &'a DeArray<'i>,
    places: &Places<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<(&'a DeTable<'i>, Origin)> {
    let mut tables = Vec::new();
    for item in items.iter() {
        let origin = places.at(&item.span());
        match item.get_ref() {
            DeValue::Table(table) => tables.push((table, origin)),
            _ => problems.push(Problem::at(&origin, format!("{list}: each item is a table; write [[{list}]]"))),
        }
    }
    tables
}

/// One item of a list while it is read.
pub(super) struct Item<'a, 'i> {
    list: &'static str,
    table: &'a DeTable<'i>,
    places: &'a Places<'a>,
    problems: &'a mut Vec<Problem>,
    origin: Origin,
}

impl<'a, 'i> Item<'a, 'i> {
    /// Reports unknown keys first.
    pub(super) fn of(
        list: &'static str,
        table: &'a DeTable<'i>,
        known: &[&str],
        places: &'a Places<'a>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        let first = table.iter().map(|(key, _)| key.span()).min_by_key(|span| span.start).unwrap_or(0..0);
        for (key, _) in table {
            if !known.contains(&key.get_ref().as_ref()) {
                let near = nearest(key.get_ref(), known.iter().map(ToString::to_string));
                let help = suggestion(near, &format!("known are {}", known.join(", ")));
                let text = format!("unknown key \"{}\" in [[{list}]]; {help}", key.get_ref());
                problems.push(Problem::at(&places.at(&key.span()), text));
            }
        }
        Self { list, table, places, problems, origin: places.at(&first) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn wrong(&mut self, text: String) {
        self.problems.push(Problem::at(&self.origin, text));
    }

    pub(super) fn read<T>(&mut self, key: &str, read: impl Fn(&Value) -> Result<T, String>) -> Option<T> {
        let value: &Spanned<DeValue<'_>> = self.table.get(key)?;
        match typed_value(value.get_ref()).and_then(|value| read(&value)) {
            Ok(value) => Some(value),
            Err(offence) => {
                let origin = self.places.at(&value.span());
                self.problems.push(Problem::at(&origin, format!("{}.{key}: {offence}", self.list)));
                None
            }
        }
    }

    pub(super) fn required<T>(
        &mut self,
        key: &str,
        example: &str,
        read: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            let example = quoted(example).unwrap_or_default();
            self.wrong(format!("{}: {key} is missing, for example {key} = {example}", self.list));
            return None;
        }
        self.read(key, read)
    }
}

fn checked_path(value: &Value) -> Result<String, String> {
    let path = value.text()?;
    let plain = path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'\\'));
    if !path.starts_with('/') || !plain || path.len() > tidegate_core::limits::TARGET_BYTES {
        return Err(format!("{path:?} is not a path: it begins with / and has no space, ? or #"));
    }
    // One slash at the end is ignored in requests, and so here.
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(&path).to_owned();
    if path == "/health" {
        return Err(String::from("/health answers probes and cannot be routed"));
    }
    Ok(path)
}

fn checked_subprotocol(value: &Value) -> Result<String, String> {
    let name = value.text()?;
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{name:?} is not a subprotocol: letters, digits and !#$%&'*+-.^_`|~, such as chat"));
    }
    if name.starts_with("bearer.") {
        return Err(format!("{name:?} is never answered: a subprotocol that begins with bearer. is a credential"));
    }
    Ok(name)
}

fn checked_room(name: &str) -> Result<String, String> {
    match valid_room(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(offence) => Err(format!("{name:?} is not a room: {offence}")),
    }
}

fn checked_pattern(value: &Value) -> Result<String, String> {
    let pattern = value.text()?;
    if pattern == "*" {
        return Ok(pattern);
    }
    // What stands before the star must be the beginning of a valid name; any token may complete it.
    let sample = pattern.strip_suffix('*').map_or_else(|| pattern.clone(), |prefix| format!("{prefix}x"));
    checked_room(&sample)
        .map(|_| pattern.clone())
        .map_err(|_| format!("{pattern:?} is neither a room's name nor the beginning of one and then *"))
}
