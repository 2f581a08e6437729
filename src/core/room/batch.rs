//! What one pass carries: some publications of a room, encoded at most once for each way of speaking.

use std::rc::Rc;
use std::sync::Arc;

use crate::dialect::Form;
use crate::model::Publication;

/// Frames of all publications of a batch, one after the other.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The octets, shared with every outbox that could not take them.
    pub buffer: Rc<[u8]>,
    /// Where each publication's frame ends. One that the form has no words for ends where it begins.
    pub ends: Rc<[u32]>,
    /// Frames in the buffer.
    pub messages: u32,
}

impl Encoded {
    /// The octets of the publications that `wanted` picks by position, as ranges that are as long as possible, each with how
    /// many frames it holds. Publications without a frame are in none.
    pub fn ranges(&self, wanted: impl Fn(usize) -> bool) -> Vec<(std::ops::Range<u32>, u32)> {
        let mut ranges: Vec<(std::ops::Range<u32>, u32)> = Vec::new();
        let mut start = 0;
        for (i, end) in self.ends.iter().copied().enumerate() {
            if wanted(i) && end > start {
                match ranges.last_mut() {
                    Some((last, count)) if last.end == start => (last.end, *count) = (end, *count + 1),
                    _ => ranges.push((start..end, 1)),
                }
            }
            start = end;
        }
        ranges
    }
}

/// See the module.
#[derive(Debug)]
pub struct Batch {
    publications: Vec<Arc<Publication>>,
    cost_bytes: usize,
    selective: bool,
    /// Most rooms have members of one form.
    first: Option<(Form, Encoded)>,
    others: Vec<(Form, Encoded)>,
}

impl Batch {
    /// A batch of one.
    pub fn new(first: Arc<Publication>) -> Self {
        let mut batch = Self {
            publications: Vec::with_capacity(1),
            cost_bytes: 0,
            selective: false,
            first: None,
            others: Vec::new(),
        };
        batch.extend(Some(first));
        batch
    }

    /// Adds publications; only before the first encoding.
    pub fn extend(&mut self, more: impl IntoIterator<Item = Arc<Publication>>) {
        debug_assert!(self.first.is_none());
        for publication in more {
            self.cost_bytes += Self::cost(&publication);
            self.selective |= publication.is_selective();
            self.publications.push(publication);
        }
    }

    /// What a publication counts against the coalesced buffer: its payload, the names in it and an envelope.
    pub fn cost(publication: &Publication) -> usize {
        const ENVELOPE_BYTES: usize = 128;
        publication.payload.len() + publication.name_bytes() + ENVELOPE_BYTES
    }

    /// The sum of the costs.
    pub fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    /// The publications, in order.
    pub fn publications(&self) -> &[Arc<Publication>] {
        &self.publications
    }

    /// Whether some publication leaves members out.
    pub fn is_selective(&self) -> bool {
        self.selective
    }

    /// The batch in a form, encoded by `encode` the first time.
    #[inline]
    pub fn encoded(&mut self, form: Form, encode: impl FnOnce(&[Arc<Publication>]) -> Encoded) -> &Encoded {
        let publications = &self.publications;
        match &mut self.first {
            Some((known, _)) if *known != form => {
                let at = self.others.iter().position(|(known, _)| *known == form).unwrap_or_else(|| {
                    self.others.push((form, encode(publications)));
                    self.others.len() - 1
                });
                &self.others[at].1
            }
            first => &first.get_or_insert_with(|| (form, encode(publications))).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_out_what_is_not_wanted_and_join_what_is() {
        let encoded = Encoded { buffer: Rc::from(&[0; 10][..]), ends: Rc::from(&[2, 4, 7, 10][..]), messages: 4 };
        assert_eq!(encoded.ranges(|_| true), [(0..10, 4)]);
        assert_eq!(encoded.ranges(|i| i != 1), [(0..2, 1), (4..10, 2)]);
        assert_eq!(encoded.ranges(|_| false), []);
    }

    #[test]
    fn publications_without_a_frame_are_in_no_range() {
        let encoded = Encoded { buffer: Rc::from(&[0; 4][..]), ends: Rc::from(&[0, 2, 2, 4][..]), messages: 2 };
        assert_eq!(encoded.ranges(|_| true), [(0..4, 2)]);
        assert_eq!(encoded.ranges(|i| i != 1), [(2..4, 1)]);
        assert_eq!(encoded.ranges(|i| i % 2 == 0), []);
    }
}
