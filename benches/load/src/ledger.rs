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

/// The receipts of one receiver from one sender whose numbers start at 1.
///
/// Invariant: `missing` is sorted, and all of it is below `last`.
#[derive(Clone, Default, Debug)]
pub(crate) struct Ledger {
    last: u64,
    started: bool,
    missing: Vec<u64>,
}

/// Missing numbers that a ledger remembers one by one; of a longer hole the rest can not be told from duplicates.
const REMEMBERED: u64 = 4096;

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
            self.missing
                .extend((self.last + 1..number).rev().take(REMEMBERED as usize).collect::<Vec<_>>().iter().rev());
            self.last = number;
            return Arrival::After(hole);
        }
        match self.missing.binary_search(&number) {
            Ok(index) => {
                self.missing.remove(index);
                Arrival::Reordered
            }
            Err(_) => Arrival::Duplicate,
        }
    }

    /// Numbers up to `sent` that never came after the last one seen. A receiver that joined late and saw nothing has missed
    /// nothing.
    pub(crate) fn unheard(&self, sent: u64) -> u64 {
        if self.started { sent.saturating_sub(self.last) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_numbers_are_in_order() {
        let mut ledger = Ledger::from_the_start();
        assert!((1..=100).all(|number| ledger.record(number) == Arrival::InOrder));
        assert_eq!(ledger.unheard(100), 0);
    }

    #[test]
    fn a_hole_at_the_start_in_the_middle_and_at_the_end_is_counted() {
        let mut ledger = Ledger::from_the_start();
        assert_eq!(ledger.record(3), Arrival::After(2));
        assert_eq!(ledger.record(6), Arrival::After(2));
        assert_eq!(ledger.unheard(10), 4);
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
        assert_eq!(ledger.unheard(50), 0);
        assert_eq!(ledger.record(40), Arrival::InOrder);
        assert_eq!(ledger.record(42), Arrival::After(1));
        assert_eq!(ledger.unheard(50), 8);
    }
}
