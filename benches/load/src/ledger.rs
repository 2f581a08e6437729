//! What one receiver has had of one sender's numbered messages: lost, twice, or late. Values in, values out.

/// How a number fits what was seen before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The next one.
    InOrder,
    /// Later than the next one: so many are missing before it.
    After(u64),
    /// One that was missing: it came after its successor.
    Reordered,
    /// Seen before.
    Duplicate,
}

/// Numbers that follow each other: the first and the last.
pub(crate) type Range = (u64, u64);

/// The receipts of one receiver from one sender whose numbers start at 1.
///
/// Invariant: the ranges of `missing` are sorted, do not touch each other, and all of them are below or at `last`.
#[derive(Clone, Default, Debug)]
pub(crate) struct Ledger {
    last: u64,
    started: bool,
    missing: Vec<Range>,
}

/// Holes that a ledger remembers, the newest ones; what arrives late of an older one cannot be told from a duplicate.
const REMEMBERED: usize = 4096;

impl Ledger {
    /// One that expects every number from 1.
    pub(crate) fn from_the_start() -> Self {
        Self { started: true, ..Self::default() }
    }

    /// Takes one number in. Of a receiver that joined in the middle, the first number that it sees is the start.
    pub(crate) fn record(&mut self, number: u64) -> Arrival {
        if !self.started || number == self.last + 1 {
            (self.started, self.last) = (true, number);
            return Arrival::InOrder;
        }
        if number > self.last {
            let hole = number - self.last - 1;
            self.remember((self.last + 1, number - 1));
            self.last = number;
            return Arrival::After(hole);
        }
        let index = self.missing.partition_point(|(_, last)| *last < number);
        match self.missing.get(index).copied() {
            Some((first, last)) if first <= number => {
                let rest = [(first, number - 1), (number + 1, last)];
                self.missing.splice(index..=index, rest.into_iter().filter(|(first, last)| first <= last));
                Arrival::Reordered
            }
            _ => Arrival::Duplicate,
        }
    }

    /// The sender has sent the numbers up to `sent`, and no more of them will come: the number of those after the last one seen.
    /// They are missing from now on. A receiver that joined late and saw nothing has missed nothing.
    pub(crate) fn close(&mut self, sent: u64) -> u64 {
        if !self.started || sent <= self.last {
            return 0;
        }
        let unheard = sent - self.last;
        self.remember((self.last + 1, sent));
        self.last = sent;
        unheard
    }

    /// What is missing.
    pub(crate) fn missing(&self) -> &[Range] {
        &self.missing
    }

    fn remember(&mut self, hole: Range) {
        if self.missing.len() == REMEMBERED {
            self.missing.remove(0);
        }
        match self.missing.last_mut() {
            Some((_, last)) if *last + 1 == hole.0 => *last = hole.1,
            _ => self.missing.push(hole),
        }
    }
}

/// How many numbers stand in both of two sorted lists.
pub(crate) fn common(left: &[Range], right: &[Range]) -> u64 {
    let shared = |hole: &Range| {
        let begin = right.partition_point(|(_, last)| *last < hole.0);
        let touching = right[begin..].iter().take_while(|(first, _)| *first <= hole.1);
        touching.map(|(first, last)| hole.1.min(*last) - hole.0.max(*first) + 1).sum::<u64>()
    };
    left.iter().map(shared).sum()
}

/// Numbers as sorted ranges.
pub(crate) fn ranges(mut numbers: Vec<u64>) -> Vec<Range> {
    numbers.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_numbers_are_in_order() {
        let mut ledger = Ledger::from_the_start();
        assert!((1..=100).all(|number| ledger.record(number) == Arrival::InOrder));
        assert_eq!(ledger.close(100), 0);
    }

    #[test]
    fn a_hole_at_the_start_in_the_middle_and_at_the_end_is_counted() {
        let mut ledger = Ledger::from_the_start();
        assert_eq!(ledger.record(3), Arrival::After(2));
        assert_eq!(ledger.record(6), Arrival::After(2));
        assert_eq!(ledger.close(10), 4);
    }

    #[test]
    fn a_tail_that_was_counted_as_lost_is_not_counted_again() {
        // The tail of the warm-up was counted when it ended, and again with the first message of the measurement.
        let mut ledger = Ledger::from_the_start();
        ledger.record(1);
        assert_eq!(ledger.close(5), 4);
        assert_eq!(ledger.close(5), 0);
        assert_eq!(ledger.record(6), Arrival::InOrder);
        assert_eq!(ledger.record(3), Arrival::Reordered, "what comes after all is not lost");
        assert_eq!(ledger.missing(), [(2, 2), (4, 5)]);
    }

    #[test]
    fn a_long_hole_is_remembered_whole() {
        let mut ledger = Ledger::from_the_start();
        assert_eq!(ledger.record(1_000_001), Arrival::After(1_000_000));
        assert_eq!(ledger.record(1), Arrival::Reordered);
        assert_eq!(ledger.record(1_000_000), Arrival::Reordered);
        assert_eq!(ledger.record(1), Arrival::Duplicate);
        assert_eq!(ledger.missing(), [(2, 999_999)]);
        assert_eq!(common(ledger.missing(), &[(1, 10), (500, 500), (999_990, 2_000_000)]), 9 + 1 + 10);
    }

    #[test]
    fn of_more_holes_than_are_remembered_the_oldest_are_forgotten() {
        let mut ledger = Ledger::from_the_start();
        for number in (2..=2 * REMEMBERED as u64 + 2).step_by(2) {
            assert_eq!(ledger.record(number), Arrival::After(1));
        }
        assert_eq!(ledger.missing().len(), REMEMBERED);
        assert_eq!(ledger.record(1), Arrival::Duplicate);
        assert_eq!(ledger.record(3), Arrival::Reordered);
    }

    #[test]
    fn numbers_in_any_order_become_sorted_ranges() {
        assert_eq!(ranges(vec![7, 2, 3, 1, 9, 3, 8]), [(1, 3), (7, 9)]);
        assert_eq!(common(&ranges(vec![1, 2, 5]), &ranges(vec![2, 3, 4, 5, 6])), 2);
        assert_eq!(common(&[], &[(1, 5)]), 0);
    }

    #[test]
    fn a_late_number_is_reordered_once_and_then_a_duplicate() {
        let mut ledger = Ledger::from_the_start();
        ledger.record(1);
        ledger.record(3);
        assert_eq!(ledger.record(2), Arrival::Reordered);
        assert_eq!(ledger.record(2), Arrival::Duplicate);
        assert_eq!(ledger.record(3), Arrival::Duplicate);
        assert_eq!(ledger.record(4), Arrival::InOrder);
    }

    #[test]
    fn a_member_that_joins_in_the_middle_starts_with_its_first_message() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.close(50), 0);
        assert_eq!(ledger.record(40), Arrival::InOrder);
        assert_eq!(ledger.record(42), Arrival::After(1));
        assert_eq!(ledger.close(50), 8);
    }
}
