//! The session with the server: how it begins, what the loss of its connection means, and what the client reports about it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use async_nats::connection::State;
use async_nats::{Client, Statistics, SubscribeError, Subscriber};
use futures_util::stream::Stream;

use super::client_events::{ClientEvents, Report};
use super::connect_options::{ConnectOptions, retry_delay};
use super::log_limit::LogLimit;
use super::resubscribe::BURST;
use super::{Nats, fail_acks, nodes};
use tidegate_core::model::{AckLevel, GapReason};
use tidegate_core::relay::Sink;
use tidegate_core::relay::envelope::ENVELOPE_BYTES;
use tidegate_core::relay::interest::{Interest, RoomKey};

/// Rooms that a line of the log names.
const LOGGED_ROOMS: usize = 5;

/// A session that begins, and its subscriptions of the node channel.
pub(super) type Connected = (Session, Vec<Subscriber>);

/// A session with a server that answered once. The client connects again by itself when the connection is lost.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) statistics: Arc<Statistics>,
    pub(super) inbox_subject: String,
    /// Whether the client has a connection, as of the last look.
    pub(super) up: bool,
    inbox: Subscriber,
    /// Connections made so far, as of the last look: another number is another connection.
    connects: u64,
    /// A fence that came back. All but its gap is handled in the next turn: the client's report that a subscription or publication
    /// before it was refused takes a turn longer than the fence itself.
    returned: Option<u64>,
}

impl Session {
    async fn new(client: Client, node_subjects: [String; 2]) -> Result<Connected, SubscribeError> {
        let inbox_subject = client.new_inbox();
        let inbox = client.subscribe(inbox_subject.clone()).await?;
        let nodes = nodes::subscribe(client.clone(), node_subjects).await?;
        let statistics = client.statistics();
        let connects = statistics.connects.load(Ordering::Relaxed);
        Ok((Self { client, statistics, inbox_subject, up: true, inbox, connects, returned: None }, nodes))
    }

    /// The fence that came back in an earlier turn; looks for the next.
    fn poll_inbox(&mut self, cx: &mut Context<'_>) -> Option<u64> {
        let returned = self.returned.take();
        while let Poll::Ready(Some(message)) = std::pin::Pin::new(&mut self.inbox).poll_next(cx) {
            let number = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
            self.returned = number.or(self.returned);
            cx.waker().wake_by_ref();
        }
        returned
    }
}

/// Tries until the broker answers.
pub(super) async fn first_connection(
    connect_options: Rc<ConnectOptions>,
    client_events: Arc<ClientEvents>,
) -> Connected {
    let mut log_limit = LogLimit::default();
    let mut attempt = 0;
    loop {
        match connect_options.connect(client_events.clone()).await {
            Ok(client) => match Session::new(client, connect_options.node_subjects()).await {
                Ok(connected) => return connected,
                Err(error) => log_limit
                    .warn(format!("cannot subscribe the relay's inbox and the node channel: {error}"), Instant::now()),
            },
            Err(error) => log_limit.warn(connect_options.explain(&error), Instant::now()),
        }
        attempt += 1;
        tokio::time::sleep(retry_delay(attempt)).await;
    }
}

impl Nats {
    /// Looks at the connection: made, lost, made again; and at what the client reports.
    pub(super) fn poll_session<S: Sink>(&mut self, cx: &mut Context<'_>, now: Instant, sink: &mut S) {
        if let Some(connecting) = &mut self.connecting {
            let Poll::Ready((session, nodes)) = connecting.as_mut().poll(cx) else { return };
            self.nodes.open(nodes);
            self.connecting = None;
            self.session = Some(session);
            self.handle_up("connected to the broker", now, sink);
        }
        let changed = self.client_events.take_changed(cx) || now >= self.next_look;
        let Some(session) = &mut self.session else { return };
        let connects = session.statistics.connects.load(Ordering::Relaxed);
        let replaced = connects != session.connects;
        if !changed && !replaced {
            return;
        }
        let was_up = session.up;
        session.connects = connects;
        session.up = session.client.connection_state() == State::Connected;
        let is_up = session.up;
        if replaced || was_up && !is_up {
            self.handle_lost(was_up, now, sink);
        }
        if replaced {
            self.fences.add_gap();
        }
        if is_up && (replaced || !was_up) {
            let what = "connected to the broker again; every room is told that messages may be missing";
            self.handle_up(what, now, sink);
        }
        self.handle_reports(now, sink);
    }

    /// Looks for fences that came back, before the rooms are looked at: what was published after the fence comes after its gap. Gives
    /// the one that came back in an earlier turn.
    pub(super) fn poll_inbox<S: Sink>(&mut self, cx: &mut Context<'_>, sink: &mut S) -> Option<u64> {
        let session = self.session.as_mut()?;
        let earlier = session.poll_inbox(cx);
        if session.returned.is_some_and(|number| self.fences.take_gap(number)) {
            sink.lost(None, GapReason::Broker, 0);
        }
        earlier
    }

    /// Answers what a fence that came back proves, once what was published before it is delivered.
    pub(super) fn handle_fence<S: Sink>(&mut self, number: u64, now: Instant, sink: &mut S) {
        let Some((batch, round_trip)) = self.fences.handle_return(number, now) else { return };
        sink.round_trip(round_trip);
        self.resubscribe.handle_proof();
        for key in batch.rooms {
            sink.confirmed(key, now);
            self.rooms.end_probe(key);
        }
        for ack in batch.acks {
            sink.acknowledged(ack.ticket, AckLevel::Broker);
        }
    }

    fn handle_up<S: Sink>(&mut self, what: &str, now: Instant, sink: &mut S) {
        let Some(session) = &self.session else { return };
        let info = session.client.server_info();
        tracing::info!(
            server = info.server_name,
            version = info.version,
            address = self.connect_options.tried(),
            "{what}"
        );
        self.connect_options.handle_connected();
        self.log_limit.clear();
        self.nodes.handle_connected(now);
        sink.payload_limit(info.max_payload.saturating_sub(ENVELOPE_BYTES));
        if let Some(text) = too_small(info.max_payload, self.incoming.message_bytes) {
            self.log_limit.warn(text, now);
        }
        sink.connected(true);
    }

    fn handle_lost<S: Sink>(&mut self, was_up: bool, now: Instant, sink: &mut S) {
        sink.connected(false);
        self.nodes.handle_lost();
        let failed = self.fences.handle_connection_lost(now);
        fail_acks(failed, sink);
        if was_up {
            self.log_limit.warn(format!("lost the broker at {}; trying again", self.connect_options.tried()), now);
        }
    }

    fn handle_reports<S: Sink>(&mut self, now: Instant, sink: &mut S) {
        let lost = self.client_events.take_lost();
        if lost > 0 {
            sink.lost(None, GapReason::Broker, lost);
            self.log_limit.warn(String::from("the broker's client dropped messages; every room is told"), now);
        }
        if self.client_events.take_lame_duck() {
            self.handle_lame_duck(now);
        }
        let mut revoked = false;
        while let Ok(report) = self.reports.try_recv() {
            match report {
                Report::NotConnected(kind) => self.log_limit.warn(self.connect_options.explain_retry(&kind), now),
                Report::ServerError(text) => revoked |= self.handle_server_error(&text, now, sink),
            }
        }
        if self.client_events.take_events() >= BURST {
            self.handle_burst(revoked, now, sink);
        }
    }

    /// The server reported so many errors at once that the client may have dropped some; `revoked`: about rooms in force too.
    fn handle_burst<S: Sink>(&mut self, revoked: bool, now: Instant, sink: &mut S) {
        let failed = self.fences.fail_acks();
        fail_acks(failed, sink);
        let unproven = self.fences.take_rooms();
        let (probes, unproven): (Vec<_>, Vec<_>) = unproven.into_iter().partition(|key| self.rooms.end_probe(*key));
        let interest = sink.interest();
        let named = |key: RoomKey| interest.room(key).map(|room| (key, room.clone()));
        if revoked {
            tracing::warn!("the broker took back many rooms at once; every room is subscribed anew, and told");
            self.resubscribe.replace(self.rooms.keys().filter_map(named));
            self.audit.clear();
        } else {
            self.audit.handle_burst(probes, now);
            let unproven = unproven.into_iter().filter_map(named);
            unproven.for_each(|(key, room)| self.resubscribe.add(key, room, interest.is_in_force(key)));
        }
    }

    /// Every room in force is proved, because an error about it may have been dropped.
    pub(super) fn begin_audit(&mut self, now: Instant, interest: &Interest) {
        self.audit.begin(self.rooms.keys(), now);
        tracing::info!(
            rooms = interest.len(),
            "the broker reported more errors at once than its client keeps; every room is proved to be in force"
        );
    }

    /// The server will close this connection soon: moving now is one short hole instead of a later one.
    fn handle_lame_duck(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        if !self.connect_options.has_alternatives() && session.client.server_info().connect_urls.is_empty() {
            let text = "the broker is shutting down and no other is known; add one to nats.url";
            return self.log_limit.warn(String::from(text), now);
        }
        tracing::info!("the broker is shutting down; moving to another");
        let client = session.client.clone();
        tokio::spawn(async move {
            // It fails only where the client has ended.
            let _ = client.force_reconnect().await;
        });
    }

    /// The broker said something that names no room: it may be about whatever no fence has confirmed yet. None of it is confirmed
    /// before it is proved again.
    fn handle_unnamed_error<S: Sink>(&mut self, text: &str, now: Instant, sink: &mut S) {
        let failed = self.fences.fail_acks();
        fail_acks(failed, sink);
        let unproven = self.fences.take_rooms();
        // Second subscriptions prove nothing then; they are made again where a burst of errors asks for it.
        let unproven: Vec<RoomKey> = unproven.into_iter().filter(|key| !self.rooms.end_probe(*key)).collect();
        let interest = sink.interest();
        let named: Vec<_> =
            unproven.iter().filter_map(|key| interest.room(*key).map(|room| (*key, room.clone()))).collect();
        let refused = self.resubscribe.handle_unnamed_error(&unproven);
        let what = match (refused, &named[..]) {
            (_, []) => String::from("no subscription was under way"),
            (Some(_), [(_, room), ..]) => format!("room {room} is refused"),
            (None, named) => {
                let rooms: Vec<&str> = named.iter().take(LOGGED_ROOMS).map(|(_, room)| &**room).collect();
                let more = if named.len() > LOGGED_ROOMS { ", …" } else { "" };
                format!(
                    "{} rooms are subscribed again before they are confirmed: {}{more}",
                    named.len(),
                    rooms.join(", ")
                )
            }
        };
        self.log_limit.warn_once(text, || format!("the broker says: {text}; {what}"), now);
        if let Some(key) = refused {
            return sink.refused(key);
        }
        for (key, room) in named {
            let in_force = sink.interest().is_in_force(key);
            self.resubscribe.add(key, room, in_force);
        }
    }

    /// A refused subscription must not be confirmed, nor stay so; a refused publication must not be acknowledged.
    /// Says whether a room that was in force is no more.
    fn handle_server_error<S: Sink>(&mut self, text: &str, now: Instant, sink: &mut S) -> bool {
        let Some(violation) = Violation::parse(text) else {
            self.handle_unnamed_error(text, now, sink);
            return false;
        };
        if violation.subject().starts_with(&format!("{}.", self.connect_options.node_prefix())) {
            self.handle_nodes_forbidden(text, now, sink);
            return false;
        }
        let prefix = self.room_prefix.trim_end_matches("room.");
        let cure = format!("allow this user to publish and subscribe {prefix}>");
        self.log_limit.warn(format!("the broker forbids a subject ({text}); {cure}"), now);
        match violation {
            Violation::Publish(_) => {
                let failed = self.fences.fail_acks();
                fail_acks(failed, sink);
                false
            }
            Violation::Subscribe(subject) => {
                let room = subject.strip_prefix(&self.room_prefix);
                let Some(key) = room.and_then(|room| sink.interest().key(room)) else { return false };
                let was_in_force = sink.interest().is_in_force(key);
                sink.refused(key);
                was_in_force
            }
        }
    }
}

/// What `-ERR 'Permissions Violation for …'` is about.
enum Violation<'a> {
    Publish(&'a str),
    Subscribe(&'a str),
}

impl<'a> Violation<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (_, rest) = text.split_once("Permissions Violation for ")?;
        let quoted = rest.split('"').nth(1);
        if rest.starts_with("Publish") {
            return Some(Self::Publish(quoted.unwrap_or("")));
        }
        rest.strip_prefix("Subscription").and(quoted).map(Self::Subscribe)
    }

    fn subject(&self) -> &'a str {
        match self {
            Self::Publish(subject) | Self::Subscribe(subject) => subject,
        }
    }
}

/// Why a broker that takes messages of `max_payload` bytes does not take all that clients may publish, and what to do.
fn too_small(max_payload: usize, message_bytes: usize) -> Option<String> {
    let needed = message_bytes.saturating_add(ENVELOPE_BYTES);
    (max_payload < needed).then(|| {
        format!(
            "the broker takes at most {max_payload} bytes in a message and clients may publish {needed} with the header: \
             larger ones fail; set max_payload of nats-server to {needed} or more, or limits.message_bytes to {} or less",
            max_payload.saturating_sub(ENVELOPE_BYTES)
        )
    })
}
