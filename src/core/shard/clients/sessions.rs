//! Sessions: what the tokens of connections said, in a column beside the table of connections.
//!
//! A guest has no session, so that a node without keys pays nothing. Pages of the column are made when the first of their
//! connections gets a session. When sessions end, or are to be told that they will, stands in order of time beside it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::auth::{Rights, Verified};
use crate::connection::{TICKS_PER_SECOND, Tick};

/// Sessions in a page.
const PAGE: usize = 512;
/// A token that holds at least this long is told of its end in the last minute; a shorter one at half of its life.
const LONG: u32 = 120 * TICKS_PER_SECOND;
/// When a client is told that its token ends: so many ticks before it, at least, and so many at most.
const TOLD_BEFORE: (u32, u32) = (15 * TICKS_PER_SECOND, 60 * TICKS_PER_SECOND);
/// How long a session holds whose key is gone.
pub(super) const WITHDRAWN_TICKS: u32 = 60 * TICKS_PER_SECOND;
/// Within how much of it the notices go out.
const WITHDRAWN_TOLD: u32 = 15 * TICKS_PER_SECOND;

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum Stage {
    /// A token is required, and none came yet.
    Awaited,
    /// It holds.
    Held,
    /// It holds, and its client was told that it will end.
    Told,
}

/// What a connection's token said.
#[derive(Debug)]
pub(in crate::shard) struct Session {
    /// The user.
    pub(in crate::shard) user: Option<Arc<str>>,
    /// What it opens.
    pub(in crate::shard) rights: Rights,
    /// When the token ends.
    pub(in crate::shard) ends: Tick,
    /// The key that made the token's signature; see [`Key::number`](crate::auth::Key::number).
    pub(in crate::shard) key: u32,
    /// Where it stands.
    pub(in crate::shard) stage: Stage,
    /// When it is looked at next.
    looked_at: Tick,
}

impl Session {
    /// Of a connection that has until `deadline` to send its token.
    pub(in crate::shard) fn awaited(deadline: Tick) -> Self {
        Self { user: None, rights: Rights::none(), ends: deadline, key: 0, stage: Stage::Awaited, looked_at: deadline }
    }

    /// Of a token that was verified at `now`. `share` places the notice of its end, in 2⁻³² parts of the time there is for it.
    pub(in crate::shard) fn held(verified: Verified, now: Tick, share: u32) -> Self {
        let ends = end_of(&verified, now);
        let life = ends - now;
        let (least, most) = TOLD_BEFORE;
        let before =
            if life < LONG { life / 2 } else { least + ((u64::from(most - least) * u64::from(share)) >> 32) as u32 };
        let Verified { user, rights, key, .. } = verified;
        Self { user, rights, ends, key, stage: Stage::Held, looked_at: ends - before }
    }

    /// How long it still holds, in ms.
    pub(in crate::shard) fn left_ms(&self, now: Tick) -> u64 {
        u64::from(self.ends.saturating_sub(now)) * u64::from(1_000 / TICKS_PER_SECOND)
    }
}

/// When a token ends that was verified at `now`.
pub(super) fn end_of(verified: &Verified, now: Tick) -> Tick {
    let life = u32::try_from(verified.expires_in_ms / u64::from(1_000 / TICKS_PER_SECOND)).unwrap_or(u32::MAX / 2);
    now.saturating_add(life.min(u32::MAX / 2))
}

/// See the module.
#[derive(Default)]
pub(super) struct Sessions {
    pages: Vec<Option<Box<[Option<Session>; PAGE]>>>,
    /// When each is looked at next.
    times: BTreeSet<(Tick, u32)>,
}

impl Sessions {
    /// The session of the connection at an index.
    pub(super) fn get(&self, index: u32) -> Option<&Session> {
        self.pages.get(index as usize / PAGE)?.as_ref()?[index as usize % PAGE].as_ref()
    }

    /// Gives a connection its session, in place of the one that it had.
    pub(super) fn set(&mut self, index: u32, session: Session) {
        self.remove(index);
        let page = index as usize / PAGE;
        if page >= self.pages.len() {
            self.pages.resize_with(page + 1, || None);
        }
        self.times.insert((session.looked_at, index));
        let page = self.pages[page].get_or_insert_with(|| Box::new([const { None }; PAGE]));
        page[index as usize % PAGE] = Some(session);
    }

    /// Forgets a connection's session.
    pub(super) fn remove(&mut self, index: u32) {
        let page = self.pages.get_mut(index as usize / PAGE).and_then(Option::as_mut);
        if let Some(session) = page.and_then(|page| page[index as usize % PAGE].take()) {
            self.times.remove(&(session.looked_at, index));
        }
    }

    /// Shortens a session whose key is gone. Its client is told within 15 s, at a moment that `share` draws, in 2⁻³² parts.
    pub(super) fn withdraw(&mut self, index: u32, now: Tick, share: u32, is_gone: impl Fn(u32) -> bool) {
        let page = self.pages.get_mut(index as usize / PAGE).and_then(Option::as_mut);
        let Some(session) = page.and_then(|page| page[index as usize % PAGE].as_mut()) else { return };
        let ends = now + WITHDRAWN_TICKS;
        if session.stage == Stage::Awaited || session.ends <= ends || !is_gone(session.key) {
            return;
        }
        self.times.remove(&(session.looked_at, index));
        let looked_at = now + ((u64::from(WITHDRAWN_TOLD) * u64::from(share)) >> 32) as u32;
        (session.stage, session.ends, session.looked_at) = (Stage::Held, ends, looked_at);
        self.times.insert((looked_at, index));
    }

    /// Whether the time of a session has come.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.times.first().is_some_and(|(time, _)| *time <= now)
    }

    /// Takes a session whose time has come: the connection's index, and the stage that it was in. One that holds is told now, and looked
    /// at again when it ends.
    pub(super) fn next_due(&mut self, now: Tick) -> Option<(u32, Stage)> {
        let (time, index) = *self.times.first().filter(|(time, _)| *time <= now)?;
        self.times.remove(&(time, index));
        let page = self.pages.get_mut(index as usize / PAGE).and_then(Option::as_mut)?;
        let session = page[index as usize % PAGE].as_mut()?;
        let stage = session.stage;
        if stage == Stage::Held {
            session.stage = Stage::Told;
            session.looked_at = session.ends;
            self.times.insert((session.ends, index));
        }
        Some((index, stage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(seconds: u64) -> Verified {
        Verified {
            user: Some("alice".into()),
            rights: Rights::none(),
            info: None,
            expires_in_ms: seconds * 1_000,
            has_exp: true,
            issued_unix_ms: None,
            id: None,
            issuer: 0,
            key: 7,
        }
    }

    #[test]
    fn a_session_is_told_of_its_end_and_then_ends_each_once() {
        let mut sessions = Sessions::default();
        sessions.set(700, Session::held(verified(3_600), 10, 0));
        sessions.set(3, Session::held(verified(3_600), 10, u32::MAX));
        sessions.set(4, Session::held(verified(60), 10, 0));
        let mut told = Vec::new();
        for now in 10..=36_010 {
            while let Some((index, stage)) = sessions.next_due(now) {
                told.push((now, index, stage));
                if stage == Stage::Told {
                    sessions.remove(index);
                }
            }
        }
        let expected = [
            (310, 4, Stage::Held),
            (610, 4, Stage::Told),
            (35_411, 3, Stage::Held),
            (35_860, 700, Stage::Held),
            (36_010, 3, Stage::Told),
            (36_010, 700, Stage::Told),
        ];
        assert_eq!(told, expected);
        assert!(sessions.get(3).is_none() && sessions.times.is_empty());
    }

    #[test]
    fn a_session_of_a_key_that_is_gone_ends_within_a_minute_and_others_stay() {
        let mut sessions = Sessions::default();
        let of_key = |key, seconds| Session::held(Verified { key, ..verified(seconds) }, 10, 0);
        for (index, session) in
            [of_key(7, 3_600), of_key(8, 3_600), of_key(7, 30), Session::awaited(5_000)].into_iter().enumerate()
        {
            sessions.set(index as u32, session);
        }
        for index in 0..5 {
            sessions.withdraw(index, 100, u32::MAX, |key| key == 7);
        }
        let told: Vec<_> =
            (100..=700).flat_map(|now| sessions.next_due(now).map(|(index, stage)| (now, index, stage))).collect();
        let expected = [(160, 2, Stage::Held), (249, 0, Stage::Held), (310, 2, Stage::Told), (700, 0, Stage::Told)];
        assert_eq!(told, expected);
        assert_eq!(sessions.get(1).unwrap().ends, 36_010);
    }

    #[test]
    fn a_session_that_is_renewed_ends_with_the_new_token_only() {
        let mut sessions = Sessions::default();
        for _ in 0..1_000 {
            sessions.set(3, Session::held(verified(60), 10, 0));
        }
        sessions.set(3, Session::held(verified(7_200), 10, 0));
        assert_eq!(sessions.times.len(), 1, "a client that renews all the time costs no more");
        assert_eq!(sessions.next_due(10_000), None);
        assert_eq!(sessions.get(3).unwrap().left_ms(10), 7_200_000);
    }
}
