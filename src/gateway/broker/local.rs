//! The built-in bus: one node, nothing to install.
//!
//! A subscription is in force at once; a publication goes to every port that subscribed its room, and its acknowledgement says
//! `node`. Requests of one port are served in order, so a port's `Joined` comes before every publication that it published
//! afterwards.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Options, Start};
use crate::gateway::config::Config;
use tidegate_core::model::{AckLevel, RoomName};
use tidegate_core::relay::interest::RoomKey;
use tidegate_core::relay::publish_queue::Outgoing;
use tidegate_core::relay::{Broker, NodeTarget, NotTaken, Sink};

/// See the module.
pub(super) struct Local;

impl Start for Local {
    type Settings = ();

    fn is_configured(_: &Config) -> bool {
        true
    }

    fn settings(_: &Options) -> io::Result<()> {
        Ok(())
    }

    fn new((): ()) -> Self {
        Self
    }
}

impl Broker for Local {
    const NAME: &'static str = "local";
    const NEEDS_RUNTIME: bool = false;

    fn poll<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

    fn subscribe<S: Sink>(&mut self, key: RoomKey, _: &RoomName, now: Instant, sink: &mut S) {
        sink.confirmed(key, now);
    }

    fn unsubscribe(&mut self, _: RoomKey) {}

    fn publish<S: Sink>(
        &mut self,
        _: &mut Context<'_>,
        item: Outgoing,
        _: Instant,
        sink: &mut S,
    ) -> Result<(), NotTaken> {
        if let Some(key) = sink.interest().key(&item.publication.room) {
            sink.message(key, item.publication);
        }
        if let Some(ticket) = item.ticket {
            sink.acknowledged(ticket, AckLevel::Node);
        }
        Ok(())
    }

    fn send_to_nodes<S: Sink>(&mut self, to: NodeTarget, message: Bytes, sink: &mut S) {
        if to == NodeTarget::All {
            sink.node_message(&message);
        }
    }

    fn flush<S: Sink>(&mut self, _: &mut Context<'_>, _: Instant, _: &mut S) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll_finish<S: Sink>(&mut self, _: &mut Context<'_>, _: Duration, _: &mut S) -> Poll<()> {
        Poll::Ready(())
    }
}
