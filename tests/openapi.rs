//! docs/openapi.json is what the admin port does: its examples are sent to a real node, and schemathesis, which invents requests from
//! the description, finds no answer that the description does not have.
#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, which says where")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::client::Client;
use support::gateway::{Driver, Gateway};
use support::http::Answer;

const TOKENS: &str = "[admin]\ntoken = \"master\"\n\n[publish]\ntoken = \"sender\"\n";

fn description() -> Value {
    serde_json::from_str(include_str!("../docs/openapi.json")).unwrap()
}

/// What a value stands for: itself, or what its `$ref` points to.
fn resolved<'a>(description: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(pointer) => description.pointer(pointer.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// One operation of the description.
struct Operation<'a> {
    description: &'a Value,
    template: &'a str,
    method: &'a str,
    operation: &'a Value,
    /// Of its path and its own.
    parameters: Vec<&'a Value>,
}

fn operations(description: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (template, endpoints) in description["paths"].as_object().unwrap() {
        for (method, operation) in endpoints.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let lists = [endpoints.get("parameters"), operation.get("parameters")];
            let parameters = lists.into_iter().flatten().flat_map(|list| list.as_array().unwrap());
            let parameters = parameters.map(|parameter| resolved(description, parameter)).collect();
            found.push(Operation { description, template, method, operation, parameters });
        }
    }
    found
}

impl Operation<'_> {
    /// The target with the examples of its parameters; `connection` is a connection that is there.
    fn target(&self, connection: &str) -> String {
        let (mut path, mut query) = (self.template.to_owned(), Vec::new());
        for parameter in &self.parameters {
            let name = parameter["name"].as_str().unwrap();
            let example = match (name, &parameter["example"]) {
                ("connection", _) => connection.to_owned(),
                (_, Value::String(text)) => text.clone(),
                (_, other) => other.to_string(),
            };
            match parameter["in"].as_str() {
                Some("path") => path = path.replace(&format!("{{{name}}}"), &example),
                _ => query.push(format!("{name}={example}")),
            }
        }
        if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
    }

    /// The bodies that it gives as examples, each with its Content-Type; one without a body where it takes none.
    fn bodies(&self) -> Vec<(String, Vec<u8>)> {
        let Some(content) = self.operation.pointer("/requestBody/content") else { return vec![Default::default()] };
        let examples = content.as_object().unwrap().iter().filter_map(|(kind, body)| {
            let octets = match body.get("example")? {
                Value::String(text) if kind != "application/json" => text.clone(),
                other => other.to_string(),
            };
            Some((kind.clone(), octets.into_bytes()))
        });
        examples.collect()
    }

    /// The answer has a documented status, and looks like its example.
    fn assert_documents(&self, answer: &Answer) {
        let what = format!("{} {}: {answer:?}", self.method, self.template);
        let documented = &self.operation["responses"][answer.status.to_string()];
        assert!(!documented.is_null(), "the status is not described: {what}");
        let content = &resolved(self.description, documented)["content"];
        let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
        let body = content.get(kind).unwrap_or_else(|| panic!("the content type is not described: {what}"));
        if let Some(example) = body.get("example") {
            assert_alike(example, &answer.json(), &what);
        }
    }
}

/// The same fields with values of the same types. A list has the shape of its first element.
fn assert_alike(example: &Value, said: &Value, what: &str) {
    match (example, said) {
        (Value::Object(example), Value::Object(said)) => {
            let names = |fields: &serde_json::Map<String, Value>| fields.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(example), names(said), "{what}");
            example.iter().for_each(|(name, value)| assert_alike(value, &said[name], &format!("{name} of {what}")));
        }
        (Value::Array(example), Value::Array(said)) => {
            assert!(!said.is_empty(), "an empty list shows nothing: {what}");
            assert_alike(&example[0], &said[0], what);
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, Value::Null) => {}
        (example, said) => panic!("{example} is not like {said}: {what}"),
    }
}

#[test]
fn every_example_of_openapi_json_is_what_the_admin_port_answers() {
    let node = Gateway::on(Driver::Epoll).config(TOKENS).start();
    let description = description();
    let mut operations = operations(&description);
    // The calls that end connections, or take the node away, come last.
    operations.sort_by_key(|one| (one.template == "/drain", one.method == "delete", one.template));
    let mut client = Client::connect(node.port);
    client.join("lobby");
    for one in operations {
        for (kind, body) in one.bodies() {
            let mut headers = vec!["Authorization: Bearer master".to_owned()];
            if !kind.is_empty() {
                headers.push(format!("Content-Type: {kind}"));
            }
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = node.ask(&one.method.to_ascii_uppercase(), &one.target(&client.id), &headers, &body);
            assert!(answer.status < 300, "{} {}: {answer:?}", one.method, one.template);
            one.assert_documents(&answer);
        }
    }
}

/// What scripts/install-test-deps.sh installed, or a reason to fail that says what to do.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps").join(path);
    assert!(path.exists(), "{} is missing: run scripts/install-test-deps.sh", path.display());
    path
}

#[test]
fn requests_that_schemathesis_invents_get_no_answer_that_openapi_json_does_not_have() {
    let node = Gateway::on(Driver::Epoll).config(TOKENS).start();
    let folder = std::env::temp_dir().join(format!("tidegate-openapi-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new(installed("venv/bin/schemathesis"))
        .args(["run", concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json"), "--seed", "1", "--max-examples", "20"])
        .args(["--url", &format!("http://127.0.0.1:{}", node.admin), "-H", "Authorization: Bearer master"])
        // A drained node has nothing left to ask.
        .args(["--phases", "examples,coverage,fuzzing", "--exclude-path", "/drain", "--no-color"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        output.status.success() && told.contains("generated"),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
