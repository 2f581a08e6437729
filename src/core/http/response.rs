//! Answers to the opening request (RFC 6455 §4.2.2).

use tungstenite::handshake::derive_accept_key;

use crate::close::Refusal;

/// Writes the 101 that opens the connection.
pub fn accept(out: &mut Vec<u8>, key: &[u8], protocol: Option<&str>, extension: Option<&str>) {
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    field(out, "Sec-WebSocket-Accept", &derive_accept_key(key));
    if let Some(protocol) = protocol {
        field(out, "Sec-WebSocket-Protocol", protocol);
    }
    if let Some(extension) = extension {
        field(out, "Sec-WebSocket-Extensions", extension);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the answer to a refused request: its status, what the status demands, and one line that says why. Nothing where the
/// client is gone.
pub fn refuse(out: &mut Vec<u8>, refusal: Refusal, retry_after_s: Option<u32>) {
    if refusal.status() == 0 {
        return;
    }
    status_line(out, refusal.status());
    if refusal == Refusal::Method {
        field(out, "Allow", "GET, HEAD");
    }
    if refusal == Refusal::UpgradeRequired {
        field(out, "Upgrade", "websocket");
        field(out, "Sec-WebSocket-Version", "13");
    }
    if let Some(seconds) = retry_after_s {
        field(out, "Retry-After", &seconds.to_string());
    }
    let connection = if refusal == Refusal::UpgradeRequired { "close, Upgrade" } else { "close" };
    body(out, connection, "text/plain; charset=utf-8", &[refusal.text().as_bytes(), b"\n"]);
}

/// Writes the answer to a request whose token is refused (RFC 6750 §3), or 503 where it may be taken in a moment. `text` says why.
pub fn refuse_token(out: &mut Vec<u8>, refusal: Refusal, text: &str, retry_after_s: u32) {
    status_line(out, refusal.status());
    if refusal.status() == 503 {
        field(out, "Retry-After", &retry_after_s.to_string());
    } else {
        field(out, "WWW-Authenticate", "Bearer error=\"invalid_token\"");
    }
    body(out, "close", "text/plain; charset=utf-8", &[text.as_bytes(), b"\n"]);
}

/// Takes the body out of an answer that [`refuse`] or [`respond`] wrote, and nothing else: the answer to a HEAD (RFC 9110 §9.3.2).
pub fn without_body(out: &mut Vec<u8>) {
    const END: &[u8] = b"\r\n\r\n";
    let end = out.windows(END.len()).position(|octets| octets == END);
    out.truncate(end.map_or(out.len(), |at| at + END.len()));
}

/// Writes an answer with a body, after which the connection closes.
pub fn respond(out: &mut Vec<u8>, status: u16, content_type: &str, content: &[u8]) {
    status_line(out, status);
    body(out, "close", content_type, &[content]);
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Answer",
    }
}

fn body(out: &mut Vec<u8>, connection: &str, content_type: &str, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    field(out, "Connection", connection);
    field(out, "Content-Type", content_type);
    field(out, "Content-Length", &len.to_string());
    out.extend_from_slice(b"\r\n");
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}
