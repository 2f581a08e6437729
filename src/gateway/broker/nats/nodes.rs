//! The node channel over NATS: a subject for all nodes and one for each; and what holds where the broker forbids these subjects.
//!
//! ```text
//!            forbidden                5 min, or a new connection            5 s without a refusal
//!   Open ──────────────► Forbidden ─────────────────────────────► Trial ──────────────────────────► Open
//!                            ▲                forbidden             │
//!                            └──────────────────────────────────────┘
//! ```
//!
//! While they are forbidden nothing is sent, because each refusal is an error that the server and its log have to bear. A refusal concerns
//! the channel only: rooms, publications and their acknowledgements go on.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::message::OutboundMessage;
use async_nats::{Client, SubscribeError, Subscriber};
use bytes::Bytes;
use futures_util::sink::Sink as _;
use futures_util::stream::Stream as _;

use super::Nats;
use tidegate_core::limits::NODE_MESSAGES;
use tidegate_core::relay::{NodeTarget, Sink};

/// Messages of one subject that are taken in one turn.
const MESSAGES_PER_TURN: usize = 64;
/// How long a node that may not use the channel waits before it tries again.
const RETRY: Duration = Duration::from_secs(5 * 60);
/// A node that was not refused for so long after it began to send again is allowed to.
const TRIAL: Duration = Duration::from_secs(5);

type Subscribing = Pin<Box<dyn Future<Output = Result<Vec<Subscriber>, SubscribeError>>>>;

/// This node's end of the channel.
#[derive(Default)]
pub(super) struct NodeChannel {
    /// The client subscribes them again on each connection.
    subscribers: Vec<Subscriber>,
    subscribing: Option<Subscribing>,
    /// Messages that wait to be sent.
    waiting: VecDeque<(NodeTarget, Bytes)>,
    rights: Rights,
}

/// Subscribes both subjects of a node.
pub(super) async fn subscribe(client: Client, subjects: [String; 2]) -> Result<Vec<Subscriber>, SubscribeError> {
    let [all, own] = subjects;
    Ok(vec![client.subscribe(all).await?, client.subscribe(own).await?])
}

impl NodeChannel {
    /// On the first connection.
    pub(super) fn open(&mut self, subscribers: Vec<Subscriber>) {
        self.subscribers = subscribers;
    }

    /// Keeps a message to be sent. Where too many wait, the oldest is lost.
    pub(super) fn push(&mut self, to: NodeTarget, message: Bytes) {
        if !self.rights.may_send() {
            return;
        }
        if self.waiting.len() >= NODE_MESSAGES {
            self.waiting.pop_front();
        }
        self.waiting.push_back((to, message));
    }

    /// What waits would arrive late.
    pub(super) fn handle_lost(&mut self) {
        self.waiting.clear();
    }

    /// Another server, or this one after a restart, may allow other things.
    pub(super) fn handle_connected(&mut self, now: Instant) {
        self.rights.handle_connected(now);
    }

    /// Hands over what arrived, a share at a time.
    pub(super) fn poll<S: Sink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        if let Some(subscribing) = &mut self.subscribing
            && let Poll::Ready(subscribers) = subscribing.as_mut().poll(cx)
        {
            self.subscribing = None;
            // It fails only where the client has ended.
            self.subscribers = subscribers.unwrap_or_default();
        }
        for subscriber in &mut self.subscribers {
            for left in (0..MESSAGES_PER_TURN).rev() {
                let Poll::Ready(Some(message)) = Pin::new(&mut *subscriber).poll_next(cx) else { break };
                sink.node_message(&message.payload);
                if left == 0 {
                    cx.waker().wake_by_ref();
                }
            }
        }
    }
}

impl Nats {
    /// Sends what waits for other nodes, as much as the client takes.
    pub(super) fn poll_to_nodes(&mut self, cx: &mut Context<'_>, now: Instant) {
        while !self.nodes.waiting.is_empty() && self.poll_ready(cx, now).is_ready() {
            let (Some((to, payload)), Some(session)) = (self.nodes.waiting.pop_front(), &mut self.session) else {
                return;
            };
            let subject = self.connect_options.node_subject(to).into();
            let message = OutboundMessage { subject, reply: None, payload, headers: None };
            if let Err(error) = Pin::new(&mut session.client).start_send(message) {
                self.log_limit.warn(format!("cannot send to other nodes: {error}"), now);
            }
        }
    }

    /// The server refused one of the subjects.
    pub(super) fn handle_nodes_forbidden<S: Sink>(&mut self, text: &str, now: Instant, sink: &mut S) {
        self.nodes.waiting.clear();
        if !self.nodes.rights.handle_forbidden(now) {
            return;
        }
        sink.node_channel(false);
        let subjects = self.connect_options.node_subjects().map(|subject| format!("\"{subject}\"")).join(", ");
        tracing::warn!(
            "the broker forbids the node channel ({text}): the nodes do not know each other, all else goes on; allow this \
             user to publish and subscribe \"{}.>\" (now refused: one of {subjects}); this is tried again every {} minutes \
             and on each new connection",
            self.connect_options.node_prefix(),
            RETRY.as_secs() / 60,
        );
    }

    /// Tries the channel again where it is time for that.
    pub(super) fn look_at_nodes<S: Sink>(&mut self, now: Instant, sink: &mut S) {
        let Some(session) = self.session.as_ref().filter(|session| session.up) else { return };
        match self.nodes.rights.handle_timeout(now) {
            None => {}
            Some(Change::Trial) => {
                // The old ones go first: a message must not arrive twice.
                self.nodes.subscribers.clear();
                let subjects = self.connect_options.node_subjects();
                self.nodes.subscribing = Some(Box::pin(subscribe(session.client.clone(), subjects)));
            }
            Some(Change::Open) => {
                tracing::info!("the broker allows the node channel again");
                sink.node_channel(true);
            }
        }
    }
}

/// Whether the broker lets this node use the channel. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Rights {
    #[default]
    Open,
    Forbidden {
        until: Instant,
    },
    Trial {
        until: Instant,
    },
}

/// What becomes of the channel with time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    /// It is tried again.
    Trial,
    /// It was not refused.
    Open,
}

impl Rights {
    fn may_send(self) -> bool {
        !matches!(self, Self::Forbidden { .. })
    }

    /// Says whether that is news.
    fn handle_forbidden(&mut self, now: Instant) -> bool {
        let before = std::mem::replace(self, Self::Forbidden { until: now + RETRY });
        before == Self::Open
    }

    fn handle_connected(&mut self, now: Instant) {
        if *self != Self::Open {
            *self = Self::Trial { until: now + TRIAL };
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Option<Change> {
        match *self {
            Self::Forbidden { until } if now >= until => {
                *self = Self::Trial { until: now + TRIAL };
                Some(Change::Trial)
            }
            Self::Trial { until } if now >= until => {
                *self = Self::Open;
                Some(Change::Open)
            }
            Self::Open | Self::Forbidden { .. } | Self::Trial { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node sends that heartbeats every 2 s, of which each is refused at once until `allowed`; how many it sent by then, and
    /// what was told.
    fn run(rights: &mut Rights, start: Instant, until: Duration, allowed: Duration) -> (usize, Vec<&'static str>) {
        let (mut sent, mut told) = (0, Vec::new());
        for second in 0..until.as_secs() {
            let now = start + Duration::from_secs(second);
            if rights.handle_timeout(now) == Some(Change::Open) {
                told.push("open");
            }
            if second % 2 == 0 && rights.may_send() {
                sent += 1;
                if now - start < allowed && rights.handle_forbidden(now) {
                    told.push("forbidden");
                }
            }
        }
        (sent, told)
    }

    #[test]
    fn a_node_that_is_refused_sends_once_in_five_minutes_and_says_so_once() {
        let (mut rights, hour) = (Rights::default(), Duration::from_secs(3_600));
        assert_eq!(run(&mut rights, Instant::now(), hour, hour), (12, vec!["forbidden"]));
    }

    #[test]
    fn a_node_that_is_allowed_again_sends_as_before_and_says_so() {
        let (mut rights, minutes) = (Rights::default(), Duration::from_secs(600));
        let (sent, told) = run(&mut rights, Instant::now(), minutes, RETRY);
        assert_eq!((sent, told), (151, vec!["forbidden", "open"]));
    }

    #[test]
    fn a_new_connection_is_tried_at_once() {
        let (mut rights, now) = (Rights::default(), Instant::now());
        rights.handle_connected(now);
        assert_eq!(rights, Rights::Open);
        assert!(rights.handle_forbidden(now));
        rights.handle_connected(now);
        assert!(rights.may_send() && !rights.handle_forbidden(now), "it was told before");
    }
}
