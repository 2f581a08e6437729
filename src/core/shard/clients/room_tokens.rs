//! What the tokens of single rooms added to the rights of connections, and until when.
//!
//! Few connections have any, so that they are kept by the connection's index and cost nothing elsewhere. The ends of all of them stand
//! in order of time.

use std::collections::{BTreeSet, HashMap};

use crate::auth::Rights;
use crate::connection::Tick;
use crate::limits::ROOM_TOKENS_PER_CONNECTION;

/// What one connection was given: the rights, and beside each when it ends and the key of its token.
#[derive(Default)]
struct Added {
    rights: Vec<Rights>,
    ends: Vec<Tick>,
    keys: Vec<u32>,
}

/// See the module.
#[derive(Default)]
pub(super) struct RoomTokens {
    /// By the connection's index.
    added: HashMap<u32, Added>,
    times: BTreeSet<(Tick, u32)>,
}

impl RoomTokens {
    /// What a connection has beside its own token.
    pub(super) fn rights(&self, index: u32) -> &[Rights] {
        self.added.get(&index).map_or(&[], |added| &added.rights)
    }

    /// Adds rights until a time; the same rights again only move their end further away. False where the connection has as many as it
    /// may have.
    pub(super) fn add(&mut self, index: u32, rights: Rights, ends: Tick, key: u32) -> bool {
        let added = self.added.entry(index).or_default();
        if let Some(known) = added.rights.iter().position(|known| *known == rights) {
            if ends <= added.ends[known] {
                return true;
            }
            added.keys[known] = key;
            let before = std::mem::replace(&mut added.ends[known], ends);
            if !added.ends.contains(&before) {
                self.times.remove(&(before, index));
            }
        } else if added.rights.len() >= ROOM_TOKENS_PER_CONNECTION {
            return false;
        } else {
            added.rights.push(rights);
            added.ends.push(ends);
            added.keys.push(key);
        }
        self.times.insert((ends, index));
        true
    }

    /// Forgets what a connection was given.
    pub(super) fn remove(&mut self, index: u32) {
        for ends in self.added.remove(&index).unwrap_or_default().ends {
            self.times.remove(&(ends, index));
        }
    }

    /// Has the rights of a connection that came with a key that is gone end at `latest`, unless they end before.
    pub(super) fn withdraw(&mut self, index: u32, latest: Tick, is_gone: impl Fn(u32) -> bool) {
        let Some(added) = self.added.get_mut(&index) else { return };
        for ends in &added.ends {
            self.times.remove(&(*ends, index));
        }
        for (ends, key) in added.ends.iter_mut().zip(&added.keys) {
            if is_gone(*key) {
                *ends = latest.min(*ends);
            }
            self.times.insert((*ends, index));
        }
    }

    /// Whether rights have ended that are still kept.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.times.first().is_some_and(|(time, _)| *time <= now)
    }

    /// Takes the rights away from a connection that have ended; the connection's index.
    pub(super) fn end_next(&mut self, now: Tick) -> Option<u32> {
        let (time, index) = *self.times.first().filter(|(time, _)| *time <= now)?;
        self.times.remove(&(time, index));
        let added = self.added.get_mut(&index)?;
        while let Some(ended) = added.ends.iter().position(|ends| *ends == time) {
            added.ends.swap_remove(ended);
            added.rights.swap_remove(ended);
            added.keys.swap_remove(ended);
        }
        if added.ends.is_empty() {
            self.added.remove(&index);
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Issuer, Key, Verifier, sign};

    fn rights(room: &str) -> Rights {
        const SECRET: &[u8] = &[7; 32];
        let issuer = Issuer { keys: vec![Key::secret(SECRET).unwrap()], ..Issuer::default() };
        let token = sign(SECRET, &format!(r#"{{"exp":1,"rooms":{{"{room}":"r"}}}}"#));
        Verifier { issuers: vec![issuer], claims: Vec::new() }.verify(token.as_bytes(), 0, |_| false).unwrap().rights
    }

    #[test]
    fn rights_of_a_key_that_is_gone_end_early_and_others_stay() {
        let mut tokens = RoomTokens::default();
        let [stays, goes, goes_soon] = ["stays", "goes", "goes-soon"].map(rights);
        for (rights, ends, key) in [(&stays, 9_000, 1), (&goes, 9_000, 2), (&goes_soon, 50, 2)] {
            assert!(tokens.add(3, rights.clone(), ends, key));
        }
        tokens.withdraw(3, 100, |key| key == 2);
        assert_eq!((tokens.end_next(99), tokens.end_next(99)), (Some(3), None));
        assert_eq!(tokens.rights(3), [stays.clone(), goes]);
        assert_eq!((tokens.end_next(100), tokens.end_next(8_999)), (Some(3), None));
        assert_eq!(tokens.rights(3), [stays]);
        assert_eq!(tokens.times.len(), 1);
    }
}
