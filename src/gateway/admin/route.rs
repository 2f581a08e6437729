//! What a request on the admin port asks for. Pure: method and target in, [`Route`] or [`Problem`] out.

use super::audit::Kind;
use super::auth::Need;
use super::publish_options::PublishOptions;
use super::reply::Problem;
use tidegate_core::model::ConnectionId;
use tidegate_core::model::{RoomName, valid_room};
use tidegate_core::percent;

/// Entries of a list where the request does not say.
const LIST_DEFAULT: usize = 100;
/// Entries of a list at most.
const LIST_MAX: usize = 1000;

/// One endpoint with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Route {
    /// `GET /metrics`
    Metrics,
    /// `GET /live`
    Live,
    /// `GET /ready`
    Ready,
    /// `GET /openapi.json`
    Openapi,
    /// `POST /drain`
    Drain,
    /// `DELETE /drain`
    Undrain,
    /// `GET /v1/node`
    Node,
    /// `GET /v1/nodes`
    Nodes,
    /// `GET /v1/rooms?limit=`
    Rooms { limit: usize },
    /// `GET /v1/connections?sort=outbox&limit=`
    Connections { by_outbox: bool, limit: usize },
    /// `DELETE /v1/connections/ID`
    Close(ConnectionId),
    /// `POST /v1/rooms/ROOM/messages?user=&exclude=&excludeUser=`
    PublishRoom(RoomName, PublishOptions),
    /// `POST /v1/messages`
    PublishRooms,
}

impl Route {
    /// How it is called in metrics, what it asks of the peer, and what it is in the log.
    const fn facts(&self) -> (&'static str, Need, Kind) {
        match self {
            Self::Metrics => ("GET /metrics", Need::Nothing, Kind::Read),
            Self::Live => ("GET /live", Need::Nothing, Kind::Read),
            Self::Ready => ("GET /ready", Need::Nothing, Kind::Read),
            Self::Openapi => ("GET /openapi.json", Need::Nothing, Kind::Read),
            Self::Drain => ("POST /drain", Need::Admin, Kind::Change),
            Self::Undrain => ("DELETE /drain", Need::Admin, Kind::Change),
            Self::Node => ("GET /v1/node", Need::Admin, Kind::Read),
            Self::Nodes => ("GET /v1/nodes", Need::Backend, Kind::Read),
            Self::Rooms { .. } => ("GET /v1/rooms", Need::Backend, Kind::Read),
            Self::Connections { .. } => ("GET /v1/connections", Need::Admin, Kind::Read),
            Self::Close(_) => ("DELETE /v1/connections/{connection}", Need::Backend, Kind::Change),
            Self::PublishRoom(..) => ("POST /v1/rooms/{room}/messages", Need::Publish, Kind::Publish),
            Self::PublishRooms => ("POST /v1/messages", Need::Publish, Kind::Publish),
        }
    }

    /// Its method and path, as docs/openapi.json writes them.
    pub(super) const fn label(&self) -> &'static str {
        self.facts().0
    }

    /// What it asks of the peer.
    pub(super) const fn need(&self) -> Need {
        self.facts().1
    }

    /// What it is in the log.
    pub(super) const fn kind(&self) -> Kind {
        self.facts().2
    }

    /// Whether it is a probe or a scrape, for which places are kept.
    pub(super) const fn is_probe(&self) -> bool {
        matches!(self, Self::Metrics | Self::Live | Self::Ready)
    }
}

/// Finds the route. HEAD is GET, and the answer to it has no body (RFC 9110 §9.3.2).
///
/// # Errors
/// 404, 405 with Allow, or 400 for a parameter.
pub(super) fn route(method: &str, path: &str, query: &str) -> Result<Route, Problem> {
    let method = if method == "HEAD" { "GET" } else { method };
    match path {
        "/metrics" => only("GET", method, || Ok(Route::Metrics)),
        "/live" => only("GET", method, || Ok(Route::Live)),
        "/ready" => only("GET", method, || Ok(Route::Ready)),
        "/openapi.json" => only("GET", method, || Ok(Route::Openapi)),
        "/drain" if method == "DELETE" => Ok(Route::Undrain),
        "/drain" => only("POST", method, || Ok(Route::Drain)).map_err(|problem| problem.with("allow", "POST, DELETE")),
        "/v1/node" => only("GET", method, || Ok(Route::Node)),
        "/v1/nodes" => only("GET", method, || Ok(Route::Nodes)),
        "/v1/rooms" => only("GET", method, || {
            let parameters = Parameters::parse(query, false)?;
            Ok(Route::Rooms { limit: parameters.limit })
        }),
        "/v1/connections" => only("GET", method, || {
            let Parameters { limit, by_outbox } = Parameters::parse(query, true)?;
            Ok(Route::Connections { by_outbox, limit })
        }),
        "/v1/messages" => only("POST", method, || Ok(Route::PublishRooms)),
        _ => with_name(method, path, query),
    }
}

fn with_name(method: &str, path: &str, query: &str) -> Result<Route, Problem> {
    if let Some(id) = path.strip_prefix("/v1/connections/") {
        return only("DELETE", method, || {
            let malformed = "a connection id is 24 lower-case hexadecimal digits; GET /v1/connections lists them";
            id.parse().map(Route::Close).map_err(|_| Problem::bad("bad-connection", malformed))
        });
    }
    if let Some(room) = path.strip_prefix("/v1/rooms/").and_then(|rest| rest.strip_suffix("/messages")) {
        return only("POST", method, || {
            Ok(Route::PublishRoom(room_name(&decoded(room)?)?, PublishOptions::parse(query)?))
        });
    }
    Err(Problem::new(404, "not-found", "nothing is served here; GET /openapi.json lists the endpoints"))
}

fn only(allowed: &'static str, method: &str, route: impl FnOnce() -> Result<Route, Problem>) -> Result<Route, Problem> {
    if method == allowed {
        return route();
    }
    let allowed = if allowed == "GET" { "GET, HEAD" } else { allowed };
    let message = format!("this endpoint does not take {method}; Allow names what it takes");
    Err(Problem::new(405, "method-not-allowed", message).with("allow", allowed))
}

/// A room's name, checked.
///
/// # Errors
/// 400 that says which rule it breaks.
pub(super) fn room_name(name: &str) -> Result<RoomName, Problem> {
    valid_room(name).map_err(|bad| Problem::bad("bad-room", format!("this is no name of a room: {bad}")))?;
    Ok(RoomName::from(name))
}

/// Percent-decodes.
fn decoded(text: &str) -> Result<String, Problem> {
    let octets: Result<Vec<u8>, _> = percent::octets(text).collect();
    let octets = octets.map_err(|_| Problem::bad("bad-room", "a % must be followed by two hexadecimal digits"))?;
    // What is not UTF-8 is not ASCII either; the check of the name refuses the replacement character.
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// Query parameters of the lists.
struct Parameters {
    limit: usize,
    by_outbox: bool,
}

impl Parameters {
    fn parse(query: &str, sortable: bool) -> Result<Self, Problem> {
        let mut parameters = Self { limit: LIST_DEFAULT, by_outbox: false };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("limit", value) => {
                    let limit = value.parse().ok().filter(|limit| (1..=LIST_MAX).contains(limit));
                    let message = || format!("limit must be a number from 1 to {LIST_MAX}");
                    parameters.limit = limit.ok_or_else(|| Problem::bad("bad-parameter", message()))?;
                }
                ("sort", "outbox") if sortable => parameters.by_outbox = true,
                _ => {
                    let accepted = if sortable { "limit=N and sort=outbox" } else { "limit=N" };
                    return Err(Problem::bad("bad-parameter", format!("this endpoint takes {accepted} only")));
                }
            }
        }
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::gateway::admin::api::OPENAPI;

    fn problem(method: &str, path: &str, query: &str) -> (u16, &'static str) {
        let problem = route(method, path, query).unwrap_err();
        assert!(!problem.message.is_empty());
        (problem.status, problem.code)
    }

    /// Every endpoint: method, path, route, what it asks of the peer.
    fn endpoints() -> Vec<(&'static str, &'static str, Route, Need)> {
        let id = "deadbeef0000000100000001".parse().unwrap();
        let every = vec![
            ("GET", "/metrics", Route::Metrics, Need::Nothing),
            ("GET", "/live", Route::Live, Need::Nothing),
            ("GET", "/ready", Route::Ready, Need::Nothing),
            ("GET", "/openapi.json", Route::Openapi, Need::Nothing),
            ("POST", "/drain", Route::Drain, Need::Admin),
            ("DELETE", "/drain", Route::Undrain, Need::Admin),
            ("GET", "/v1/node", Route::Node, Need::Admin),
            ("GET", "/v1/nodes", Route::Nodes, Need::Backend),
            ("GET", "/v1/rooms", Route::Rooms { limit: 100 }, Need::Backend),
            ("GET", "/v1/connections", Route::Connections { by_outbox: false, limit: 100 }, Need::Admin),
            ("DELETE", "/v1/connections/deadbeef0000000100000001", Route::Close(id), Need::Backend),
            (
                "POST",
                "/v1/rooms/lobby/messages",
                Route::PublishRoom("lobby".into(), PublishOptions::default()),
                Need::Publish,
            ),
            ("POST", "/v1/messages", Route::PublishRooms, Need::Publish),
        ];
        // Another one belongs into the list.
        for (_, _, route, _) in &every {
            match route {
                Route::Metrics | Route::Live | Route::Ready | Route::Openapi | Route::Drain | Route::Undrain => {}
                Route::Node | Route::Nodes | Route::Rooms { .. } | Route::Connections { .. } | Route::Close(_) => {}
                Route::PublishRoom(..) | Route::PublishRooms => {}
            }
        }
        every
    }

    #[test]
    fn every_endpoint_of_the_contract_is_found_and_asks_for_what_it_should() {
        for (method, path, expected, need) in endpoints() {
            assert_eq!(expected.need(), need, "{path}");
            assert_eq!(route(method, path, ""), Ok(expected), "{path}");
            let allowed = match path {
                "/drain" => "POST, DELETE",
                _ if method == "GET" => "GET, HEAD",
                _ => method,
            };
            let others = ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"];
            for other in others.iter().filter(|other| allowed.split(", ").all(|allowed| **other != allowed)) {
                let problem = route(other, path, "").unwrap_err();
                assert_eq!((problem.status, problem.header), (405, Some(("allow", allowed))), "{other} {path}");
            }
            assert_eq!(route("HEAD", path, "").ok(), route("GET", path, "").ok(), "{path}");
        }
    }

    /// The methods of a path of the description, and what each asks of the peer.
    fn described(endpoints: &Value) -> BTreeMap<String, Need> {
        let methods = endpoints.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters");
        let need = |operation: &Value| match &operation["security"] {
            Value::Null => Need::Admin,
            Value::Array(tokens) if tokens.is_empty() => Need::Nothing,
            tokens if tokens[0].get("publish").is_some() => Need::Publish,
            tokens if tokens[0].get("backend").is_some() => Need::Backend,
            other => panic!("{other}"),
        };
        methods.map(|(method, operation)| (method.to_ascii_uppercase(), need(operation))).collect()
    }

    #[test]
    fn openapi_json_has_exactly_the_endpoints_of_the_admin_port_with_their_tokens() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = description["paths"].as_object().unwrap();
        for (template, endpoints) in paths {
            let path = template.replace("{room}", "lobby").replace("{connection}", "deadbeef0000000100000001");
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let Ok(route) = route(method, &path, "") else { continue };
                assert_eq!(route.label(), format!("{method} {template}"));
            }
            let served: BTreeMap<String, Need> = ["GET", "POST", "PUT", "PATCH", "DELETE"]
                .iter()
                .filter_map(|method| Some(((*method).to_owned(), route(method, &path, "").ok()?.need())))
                .collect();
            assert_eq!(served, described(endpoints), "{template}");
        }
        let operations: usize = paths.values().map(|endpoints| described(endpoints).len()).sum();
        assert_eq!(operations, endpoints().len(), "an endpoint is not described");
    }

    #[test]
    fn lists_take_a_limit_and_a_sort_and_say_what_they_take() {
        assert_eq!(route("GET", "/v1/rooms", "limit=7"), Ok(Route::Rooms { limit: 7 }));
        let sorted = Route::Connections { by_outbox: true, limit: 5 };
        assert_eq!(route("GET", "/v1/connections", "sort=outbox&limit=5"), Ok(sorted));
        for query in ["limit=0", "limit=1001", "limit=-1", "limit=", "limit", "limits=3", "sort=age"] {
            assert_eq!(problem("GET", "/v1/connections", query), (400, "bad-parameter"), "{query}");
        }
        assert_eq!(problem("GET", "/v1/rooms", "sort=outbox"), (400, "bad-parameter"));
    }

    #[test]
    fn a_room_is_percent_decoded_and_may_contain_slashes() {
        for (path, room) in
            [("/v1/rooms/a%2Fb/messages", "a/b"), ("/v1/rooms/a/b/messages", "a/b"), ("/v1/rooms/%41/messages", "A")]
        {
            assert_eq!(
                route("POST", path, ""),
                Ok(Route::PublishRoom(room.into(), PublishOptions::default())),
                "{path}"
            );
        }
    }

    #[test]
    fn rooms_that_would_inject_into_a_subject_or_a_header_are_refused() {
        for room in [
            "",
            "%",
            "%4",
            "%zz",
            "a%20b",
            "a%0d%0ab",
            "%2a",
            "%3e",
            "a..b",
            ".a",
            "%24SYS",
            "%ff%fe",
            "%00",
            "caf%c3%a9",
        ] {
            let path = format!("/v1/rooms/{room}/messages");
            assert_eq!(problem("POST", &path, ""), (400, "bad-room"), "{room}");
        }
        assert_eq!(problem("POST", &format!("/v1/rooms/{}/messages", "x".repeat(201)), ""), (400, "bad-room"));
    }

    #[test]
    fn an_unknown_path_is_404_and_a_malformed_connection_id_400() {
        for path in ["/", "/v2/node", "/v1/rooms/lobby", "/metrics/", "/v1/rooms/messages", "*"] {
            assert_eq!(problem("GET", path, ""), (404, "not-found"), "{path}");
        }
        assert_eq!(problem("DELETE", "/v1/connections/7", ""), (400, "bad-connection"));
    }
}
