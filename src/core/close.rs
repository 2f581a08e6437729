//! Why connections end: one table from offence to fault, close code or HTTP status, and metric label.
//!
//! [`Refusal`] is before the upgrade (an HTTP status), [`CloseReason`] after it (a close code, RFC 6455 §7.4).

/// Which side is at fault for the end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The client left, vanished or broke the protocol.
    Peer,
    /// A limit or a rule of this node.
    Policy,
    /// This node's own decision or failure.
    Local,
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $number:ident, $number_doc:literal: $($(#[$row_doc:meta])* $row:ident $fault:ident $value:literal $label:literal $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$row_doc])* $row),* }

        impl $name {
            /// Every row, in order; `ALL[reason as usize] == reason`.
            pub const ALL: &'static [Self] = &[$(Self::$row),*];

            #[doc = $number_doc]
            pub const fn $number(self) -> u16 { match self { $(Self::$row => $value),* } }

            /// The metric label.
            pub const fn label(self) -> &'static str { match self { $(Self::$row => $label),* } }

            /// What the client is told; at most 123 bytes, what fits a close frame (RFC 6455 §5.5.1).
            pub const fn text(self) -> &'static str { match self { $(Self::$row => $text),* } }

            /// Which side is at fault.
            pub const fn fault(self) -> Fault { match self { $(Self::$row => Fault::$fault),* } }
        }
    };
}

table! {
    /// Why an open connection ended.
    CloseReason, code, "The close code; 0 where no close frame is sent because the peer would not read it.":
    /// The client sent a close frame; its code is echoed.
    ClosedByPeer Peer 1000 "client" "goodbye";
    /// The client shut its socket down without a close frame.
    Eof Peer 0 "eof" "";
    /// The socket failed: reset, broken pipe, timed out in the kernel.
    Reset Peer 0 "reset" "";
    /// Nothing heard within ping interval and pong timeout.
    PongTimeout Peer 1001 "pong-timeout" "no pong came in time: the connection looked dead";
    /// A violation of RFC 6455.
    Protocol Peer 1002 "protocol" "protocol error";
    /// A kind of message that the dialect does not take.
    Unsupported Peer 1003 "unsupported" "this dialect takes text messages only";
    /// Text that is not UTF-8, or compressed data that does not inflate, or only to next to nothing.
    InvalidPayload Peer 1007 "invalid-payload" "the payload is not what its type says";
    /// A message over the limit.
    TooBig Policy 1009 "too-big" "message too big";
    /// A message was begun and not finished in time.
    MessageTimeout Policy 1008 "message-timeout" "the message was not finished in time";
    /// All unfinished messages together are over the node's budget, and this one was the largest.
    MessageBudget Policy 1013 "message-budget" "the node holds too many unfinished messages; reconnect and send it again";
    /// The message rate was exceeded and the dialect cannot tell otherwise.
    RateLimited Policy 1008 "rate-limited" "too many messages";
    /// Empty frames, pings or the like beyond the budget.
    Flood Policy 1008 "flood" "too many empty frames or pings";
    /// The outbox is full.
    SlowReader Policy 1013 "slow-reader" "messages were not read fast enough; reconnect and catch up";
    /// The oldest frame in the outbox is too old.
    WriteStall Policy 1013 "write-stall" "messages were not read fast enough; reconnect and catch up";
    /// All outboxes together are over the node's budget, and this one was the largest.
    OutboxBudget Policy 1013 "outbox-budget" "messages were not read fast enough; reconnect and catch up";
    /// A gap that the dialect has no other way to tell.
    Gap Local 1013 "gap" "messages may have been missed; reconnect and catch up";
    /// The node drains.
    Drain Local 1012 "drain" "the node restarts; reconnect";
    /// The connection reached its maximal age.
    MaxAge Local 1012 "max-age" "the connection is old; reconnect";
    /// An operator closed it.
    Operator Policy 1008 "operator" "closed by the operator";
    /// A token is required, and none came.
    TokenMissing Policy 3000 "token-missing" "a token is required; get one and connect with it";
    /// The token is refused.
    TokenInvalid Policy 3000 "token-invalid" "the token is refused; get another one and connect with it";
    /// The token has ended.
    TokenExpired Policy 3000 "token-expired" "the token has ended; get another one and connect with it";
    /// The connection may not be in its room.
    Forbidden Policy 3003 "forbidden" "you may not be in this room; do not come back with the same token";
    /// The keys that the token needs are not there yet.
    KeysUnavailable Local 1013 "keys-unavailable" "the node's keys are not loaded yet; reconnect with the same token";
    /// The node cannot go on with it: the host had no memory to receive what it sent.
    Internal Local 1011 "internal" "internal error; reconnect";
}

table! {
    /// Why a request on the public port was not upgraded.
    Refusal, status, "The HTTP status; 0 where nothing can be answered.":
    /// The client left before its request was complete.
    Eof Peer 0 "eof" "";
    /// The socket failed.
    Reset Peer 0 "reset" "";
    /// The request violates HTTP or RFC 6455 §4.2.1.
    BadRequest Peer 400 "bad-request" "this is no valid WebSocket upgrade request; send a GET over plain HTTP/1.1 with one Host, `Connection: Upgrade`, `Upgrade: websocket`, `Sec-WebSocket-Version: 13` and a Sec-WebSocket-Key of 16 bytes in base64, without a body, and nothing more before the answer";
    /// The token in the Authorization header is missing or refused.
    Unauthorized Policy 401 "unauthorized" "a valid token is required; send it as `Authorization: Bearer TOKEN`";
    /// The keys that the token in the Authorization header needs are not there yet.
    KeysUnavailable Local 503 "keys-unavailable" "the node's keys are not loaded yet; try again in a few seconds";
    /// The Origin header is not on the allow-list.
    ForbiddenOrigin Policy 403 "forbidden-origin" "pages of this Origin may not connect; if they are yours, add it to `origins`, such as --origins https://app.example";
    /// A page of the same host, by a name that is not known to be this node's.
    ForbiddenHost Policy 403 "forbidden-host" "a page asks for this node by a name that it is not known by, which any site could have pointed at it; add the name to `hosts`, or the page to `origins`";
    /// Nothing is served at this path.
    NotFound Peer 404 "not-found" "nothing is served here; connect a WebSocket client to /, /ws, /socket or /raw/ROOM with a valid room name";
    /// Only GET is served, and HEAD where that asks for no upgrade.
    Method Peer 405 "method" "only GET is served here, and HEAD for plain requests; what publishes and steers is on the admin port";
    /// The request did not arrive in time.
    Timeout Peer 408 "timeout" "the request was not complete in time; connect again and send it at once";
    /// The target is too long.
    UriTooLong Peer 414 "uri-too-long" "the request target is too long; shorten its path or query";
    /// An Expect header.
    Expectation Peer 417 "expectation" "Expect is not served; leave that header out";
    /// No upgrade where only WebSockets are served, or an incomplete one, or one to another version than 13.
    UpgradeRequired Peer 426 "upgrade-required" "this asks for no WebSocket of version 13; connect with a WebSocket client, and have a proxy in between pass `Upgrade` and `Connection` on over HTTP/1.1";
    /// The head or its headers are too many or too large.
    HeadTooLarge Peer 431 "head-too-large" "the request's headers are too large; send fewer or shorter ones";
    /// The node is full.
    Capacity Policy 503 "capacity" "the node is full; try again later";
    /// Too many new connections a second.
    ConnectionRate Policy 503 "connection-rate" "too many new connections; try again later";
    /// Too many sockets of the shard, or of one address, are not upgraded, and this was the oldest.
    Displaced Policy 503 "displaced" "too many unfinished requests are open, and this was the oldest; send the whole request at once, or try again later";
    /// More connections of one address than `limits.connections_per_address`.
    AddressConnections Policy 429 "address-connections" "too many connections from your address are open; close some, or have `limits.connections_per_address` raised";
    /// The peer made more mistakes a second than `limits.mistakes_per_address`: it is dropped, unread and unanswered.
    Dropped Peer 0 "dropped" "";
    /// The node drains.
    Draining Local 503 "draining" "the node restarts; try again";
    /// HTTP/0.9 or 2.
    HttpVersion Peer 505 "http-version" "only HTTP/1.1 and plain requests of HTTP/1.0 are served; ask with one of them";
    /// A connection of a trusted proxy does not begin with a PROXY protocol header of version 2 (`proxies.protocol_v2`).
    ProxyMissing Peer 400 "proxy-missing" "no PROXY protocol header of version 2 came first, or it is longer than 4 KiB, and `proxies.protocol_v2` wants one from this address; have the balancer send version 2 (version 1 is not read), or turn `proxies.protocol_v2` off";
    /// A PROXY protocol header where none is expected.
    ProxyUnexpected Peer 400 "proxy-unexpected" "a PROXY protocol header came, and none is expected from this address; name the balancer in `proxies.trusted`, turn `proxies.protocol_v2` on and have it send version 2, or have it send none";
}

impl Refusal {
    /// Whether the request is a mistake that no working client or probe makes: reading and answering it takes as much time as dozens of
    /// messages. Paths and methods that are not served are none, or a balancer that probes the wrong path would be dropped; nor is
    /// silence, which costs nothing.
    pub const fn is_mistake(self) -> bool {
        matches!(
            self,
            Self::BadRequest
                | Self::UriTooLong
                | Self::HeadTooLarge
                | Self::HttpVersion
                | Self::ProxyMissing
                | Self::ProxyUnexpected
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_a_close_frame_and_every_label_is_its_own() {
        let labels: std::collections::BTreeSet<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        for (i, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(reason.text().len() <= 123);
        }
        let labels: std::collections::BTreeSet<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }

    #[test]
    fn every_refusal_that_is_answered_says_what_is_wrong_and_what_to_do() {
        // Half of them said only what was wrong; the author of a client read "this is no valid WebSocket upgrade request".
        for refusal in Refusal::ALL.iter().filter(|refusal| refusal.status() != 0) {
            let halves = refusal.text().split_once("; ");
            assert!(halves.is_some_and(|(wrong, cure)| !wrong.is_empty() && !cure.is_empty()), "{refusal:?}");
        }
    }
}
