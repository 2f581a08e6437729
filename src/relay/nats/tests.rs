//! The bus without a broker, its clock in the test's hand.

use super::*;
use crate::counters::RelayCounters;
use crate::mailbox;
use crate::relay::hub::Hub;
use crate::relay::interest::{Bounds, Interest};
use crate::relay::post::Post;
use crate::relay::{Options, ToShard};

/// A bus that no broker answers, and the port of a shard.
fn bus(runtime: &tokio::runtime::Runtime, limits: &Limits) -> (Bus, mailbox::Receiver<ToShard>) {
    let waker = Waker::new().unwrap();
    let capacity = limits.mailbox_messages + limits::MAILBOX_RESERVE;
    let (post, from_relay) = mailbox::mailbox(capacity, Waker::new().unwrap());
    let bounds = Bounds { confirm_within: limits.fence_deadline, linger: limits.linger, rooms: usize::MAX };
    let interest = Interest::new(bounds);
    let hub = Hub::new(vec![Post::new(post, limits.mailbox_messages)], interest, Arc::new(RelayCounters::default()));
    let desk = Desk { hub, requests: Requests::default(), shared: Arc::new(Shared::new(waker.clone())) };
    let nats = crate::config::Nats { urls: vec![String::from("nats://127.0.0.1:1")], ..Default::default() };
    let options = Options { nats: Some(nats), limits: limits.clone(), node: 1 };
    let access = Access::new(&options).unwrap().unwrap();
    let doorbell = Doorbell::new(runtime, waker).unwrap();
    let _inside = runtime.enter();
    (Bus::new(desk, access, doorbell, limits), from_relay)
}

#[test]
fn rooms_that_no_broker_took_in_time_are_refused_and_wait_no_longer() {
    // The queue of rooms to subscribe grew with every join for as long as the broker was away.
    const ROOMS_A_SECOND: usize = 100;
    const SECONDS: usize = 60;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limits = Limits::default();
    let (mut bus, mut from_relay) = bus(&runtime, &limits);
    let start = Instant::now();
    for second in 0..SECONDS {
        let now = start + Duration::from_secs(second as u64);
        for room in 0..ROOMS_A_SECOND {
            bus.take_request(0, ToRelay::Subscribe(format!("{second}.{room}").into()), now);
        }
        bus.handle_timeouts(now);
        bus.apply_effects();
        let most = ROOMS_A_SECOND * (limits.fence_deadline.as_secs() as usize);
        assert!(bus.subscribes.len() <= most, "{} rooms wait in second {second}", bus.subscribes.len());
    }
    bus.handle_timeouts(start + Duration::from_secs(SECONDS as u64) + limits.fence_deadline);
    bus.apply_effects();
    assert_eq!(bus.subscribes.len(), 0);
    let refused = std::iter::from_fn(|| from_relay.pop()).filter(|item| matches!(item, ToShard::Refused(..))).count();
    assert_eq!(refused, SECONDS * ROOMS_A_SECOND, "everybody was answered");
}
