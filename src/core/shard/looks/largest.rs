//! The largest of many items that come one after the other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keeps the `limit` largest of the items that it is offered, and no more.
pub(super) struct Largest<T> {
    limit: usize,
    /// The least of them first.
    kept: BinaryHeap<Reverse<T>>,
}

impl<T: Ord> Largest<T> {
    /// Keeps at most `limit` items.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: BinaryHeap::new() }
    }

    /// Keeps an item if it is among the largest so far.
    pub(super) fn offer(&mut self, item: T) {
        if self.kept.len() < self.limit {
            self.kept.push(Reverse(item));
        } else if let Some(mut least) = self.kept.peek_mut()
            && item > least.0
        {
            *least = Reverse(item);
        }
    }

    /// Whether as many are kept as may be.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= self.limit
    }

    /// Takes what is kept, the largest first.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.kept).into_sorted_vec().into_iter().map(|Reverse(item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_found_in_order_however_many_there_are() {
        let largest = |count: usize, limit| {
            let mut largest = Largest::new(limit);
            (0..1_000_u32).map(|n| n * 7 % 1_000).take(count).for_each(|item| largest.offer(item));
            largest.take().collect::<Vec<_>>()
        };
        assert_eq!(largest(1_000, 3), [999, 998, 997]);
        assert_eq!(largest(2, 3), [7, 0]);
        assert!(largest(1_000, 0).is_empty());
    }
}
