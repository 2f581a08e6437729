//! NATS without a server, its clock in the test's hand.

use super::*;
use crate::gateway::broker::Port;
use crate::gateway::broker::port::Ends;
use crate::gateway::broker::service::Service;
use crate::gateway::broker::thread::Shared;
use crate::gateway::mailbox::Waker;
use tidegate_core::counters::RelayCounters;
use tidegate_core::limits::Limits;
use tidegate_core::relay::interest::Bounds;
use tidegate_core::relay::{Relay, ToRelay, ToShard};

/// A relay whose server does not answer, and the port of a shard.
fn relay(runtime: &tokio::runtime::Runtime, limits: &Limits, now: Instant) -> (Service<Nats>, Port) {
    let shared = Arc::new(Shared::new(Waker::new().unwrap()));
    let mut ends = Ends::new(limits, vec![Waker::new().unwrap()], &shared);
    let bounds = Bounds { confirm_within: limits.fence_deadline, linger: limits.linger, rooms: usize::MAX };
    let relay = Relay::new(ends.outlets, bounds, limits.fence_deadline, Arc::new(RelayCounters::default()));
    let mut config = Config { limits: limits.clone(), ..Config::default() };
    config.nats.url = vec![String::from("nats://127.0.0.1:1")];
    let options = Options::new(config, 1);
    let _inside = runtime.enter();
    let broker = Nats::new(Nats::settings(&options).unwrap());
    (Service::new(relay, broker, ends.requests, shared, now), ends.ports.pop().unwrap())
}

#[test]
fn rooms_that_no_broker_took_in_time_are_refused_and_wait_no_longer() {
    // The queue of rooms to subscribe grew with every join for as long as the broker was away.
    const ROOMS_A_SECOND: usize = 100;
    const SECONDS: usize = 60;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (limits, start) = (Limits::default(), Instant::now());
    let (mut service, mut port) = relay(&runtime, &limits, start);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let mut end_batch = |service: &mut Service<Nats>, now| {
        service.relay.handle_timeout(now);
        service.relay.apply(&mut service.broker, &mut cx, now);
        service.broker.flush(&mut cx, now, &mut service.relay);
    };
    for second in 0..SECONDS {
        let now = start + Duration::from_secs(second as u64);
        for room in 0..ROOMS_A_SECOND {
            service.relay.handle_request(0, ToRelay::Subscribe(format!("{second}.{room}").into()), now);
        }
        end_batch(&mut service, now);
        let most = ROOMS_A_SECOND * (limits.fence_deadline.as_secs() as usize);
        let waiting = service.broker.subscribes.len();
        assert!(waiting <= most, "{waiting} rooms wait in second {second}");
    }
    end_batch(&mut service, start + Duration::from_secs(SECONDS as u64) + limits.fence_deadline);
    assert_eq!(service.broker.subscribes.len(), 0);
    let items = std::iter::from_fn(|| port.from_relay.pop());
    let refused = items.filter(|item| matches!(item, ToShard::Refused(..))).count();
    assert_eq!(refused, SECONDS * ROOMS_A_SECOND, "each join was answered");
}
