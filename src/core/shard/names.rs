//! The names of a shard's rooms, and the numbers that stand for them everywhere else on the shard.

use std::collections::HashMap;

use slab::Slab;

use crate::model::{RoomName, shrink_table};

/// Room names by number, and numbers by name. A number is given again only after its room was removed.
#[derive(Default)]
pub(super) struct Names {
    by_number: Slab<RoomName>,
    by_name: HashMap<RoomName, u32>,
}

impl Names {
    /// Gives a room its number; there is none of this name yet.
    pub(super) fn insert(&mut self, name: RoomName) -> u32 {
        let number = self.by_number.insert(name.clone()) as u32;
        let before = self.by_name.insert(name, number);
        debug_assert!(before.is_none());
        number
    }

    /// Removes a room; its name.
    pub(super) fn remove(&mut self, number: u32) -> Option<RoomName> {
        let name = self.by_number.try_remove(number as usize)?;
        self.by_name.remove(&name);
        shrink_table(&mut self.by_name);
        Some(name)
    }

    /// The number of a room.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// The name of a room.
    pub(super) fn name(&self, number: u32) -> Option<&RoomName> {
        self.by_number.get(number as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_names_gives_its_memory_back_when_a_crowd_of_rooms_has_ended() {
        // A node that had a million rooms for an hour kept the table of their names until its next start.
        let mut names = Names::default();
        let numbers: Vec<u32> =
            (0..10_000).map(|n: u32| names.insert(RoomName::from(n.to_string().as_str()))).collect();
        let full = names.by_name.capacity();
        for number in &numbers[100..] {
            names.remove(*number);
        }
        assert!(names.by_name.capacity() <= full / 8, "{} of {full} places", names.by_name.capacity());
        assert!((0..100_u32).all(|n| names.number(&n.to_string()) == Some(numbers[n as usize])));
    }

    #[test]
    fn a_room_keeps_its_number_until_it_is_removed() {
        let mut names = Names::default();
        let [a, b] = ["a", "b"].map(|name| names.insert(RoomName::from(name)));
        assert_eq!((names.number("a"), names.name(b).map(|name| &**name)), (Some(a), Some("b")));
        assert_eq!(names.remove(a).as_deref(), Some("a"));
        assert_eq!((names.number("a"), names.name(a)), (None, None));
        assert_eq!(names.remove(a), None);
        assert_eq!(names.insert(RoomName::from("c")), a, "the number is free again");
        assert_eq!(names.number("c"), Some(a));
    }
}
