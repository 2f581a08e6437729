//! The load checker: what publishers wrote and subscribers read, and the verdict. Its first line counts the losses.
//!
//! Publishers write `{"p":PUBLISHER,"n":NUMBER}` with numbers from 0 on; whoever listens records. A subscriber that misses
//! a number was told if a gap came after the hole: it says that anything before it may be missing, and may come after messages
//! that the broker delivered before it. The end of a connection tells of what would have come after it, and of no hole before
//! the last message. What failed, and was told to its publisher, may arrive or not, but alike for all of a node: where one
//! of its subscribers heard it, it counts for the others like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

/// What one subscriber heard, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    /// A message of a publisher.
    Message(u64, u64),
    /// Something before this may be missing.
    Gap,
    /// A drain, a close or the end of the connection: what comes after it is missing.
    End,
}

impl Heard {
    /// What a message of the native dialect means to the checker.
    pub fn of(value: &Value) -> Option<Self> {
        match value["type"].as_str()? {
            "message" => Some(Self::Message(value["content"]["p"].as_u64()?, value["content"]["n"].as_u64()?)),
            "gap" => Some(Self::Gap),
            "server-shutdown" => Some(Self::End),
            _ => None,
        }
    }
}

/// A publisher's message.
pub fn numbered(publisher: u64, number: u64) -> Value {
    json!({"p": publisher, "n": number})
}

/// The verdict on one room.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub told: u64,
    pub untold: u64,
    /// Not heard by anybody, and told to their publisher.
    pub failed: u64,
    pub twice: u64,
    pub disordered: u64,
}

impl std::iter::Sum for Verdict {
    fn sum<I: Iterator<Item = Self>>(verdicts: I) -> Self {
        verdicts.fold(Self::default(), |sum, one| Self {
            told: sum.told + one.told,
            untold: sum.untold + one.untold,
            failed: sum.failed + one.failed,
            twice: sum.twice + one.twice,
            disordered: sum.disordered + one.disordered,
        })
    }
}

impl Verdict {
    /// The first line of a report.
    pub fn line(&self) -> String {
        let Self { told, untold, failed, twice, disordered } = self;
        format!("told losses {told}, untold losses {untold}; failed {failed}, twice {twice}, out of order {disordered}")
    }

    /// Prints the line; fails unless G1, G2 and G3 hold.
    pub fn assert_promises(&self) {
        println!("{}", self.line());
        assert_eq!((self.untold, self.twice, self.disordered), (0, 0, 0), "{}", self.line());
    }

    fn add_lost(&mut self, missing: Range<u64>, told: bool, is_failed: impl Fn(u64) -> bool) {
        for number in missing {
            *match (is_failed(number), told) {
                (true, _) => &mut self.failed,
                (false, true) => &mut self.told,
                (false, false) => &mut self.untold,
            } += 1;
        }
    }

    /// Nothing at all was lost.
    pub fn assert_nothing_lost(&self) {
        self.assert_promises();
        assert_eq!((self.told, self.failed), (0, 0), "{}", self.line());
    }
}

/// What publishers wrote down.
#[derive(Clone, Default)]
pub struct Ledger {
    /// Each publisher published `0..count`.
    pub published: BTreeMap<u64, u64>,
    /// Publications (publisher, number) of which their publisher was told that they failed.
    pub failed: BTreeSet<(u64, u64)>,
}

impl Ledger {
    /// Judges what each subscriber of one node heard.
    pub fn judge(&self, subscribers: &[Vec<Heard>]) -> Verdict {
        let mut ledger = self.clone();
        for item in subscribers.iter().flatten() {
            if let Heard::Message(publisher, number) = item {
                ledger.failed.remove(&(*publisher, *number));
            }
        }
        let mut verdict = Verdict::default();
        subscribers.iter().for_each(|heard| ledger.judge_one(0, heard, &mut verdict));
        verdict
    }

    fn judge_one(&self, since: u64, heard: &[Heard], verdict: &mut Verdict) {
        let last = |notice: &Heard| heard.iter().rposition(|item| item == notice);
        let (last_gap, last_end) = (last(&Heard::Gap), last(&Heard::End));
        for (publisher, count) in &self.published {
            let first = heard.iter().find_map(|item| match item {
                Heard::Message(from, number) if from == publisher => Some(*number),
                _ => None,
            });
            let is_told = |since: usize| last_gap.is_some_and(|gap| gap >= since);
            let is_failed = |number: u64| self.failed.contains(&(*publisher, number));
            // The next number, and where the one before it was heard.
            let (mut next, mut before) = (first.unwrap_or(since).min(since), 0);
            for (place, item) in heard.iter().enumerate() {
                let Heard::Message(from, number) = item else { continue };
                if from != publisher {
                    continue;
                }
                match number.checked_sub(next) {
                    Some(_) => verdict.add_lost(next..*number, is_told(before), is_failed),
                    None if number + 1 == next => verdict.twice += 1,
                    None => verdict.disordered += 1,
                }
                next = next.max(number + 1);
                before = place;
            }
            let ended = last_end.is_some_and(|end| end >= before);
            verdict.add_lost(next..*count, ended || is_told(before), is_failed);
        }
    }
}

/// Judges what each subscriber heard of publishers that published `0..count` each, and of which none was told of a failure.
pub fn judge(published: &BTreeMap<u64, u64>, subscribers: &[Vec<Heard>]) -> Verdict {
    Ledger { published: published.clone(), ..Ledger::default() }.judge(subscribers)
}

/// Judges one subscriber of one publisher, number 0, for a time: of messages `range` each must have been heard or told.
pub fn judge_range(range: Range<u64>, heard: &[Heard]) -> Verdict {
    let mut verdict = Verdict::default();
    let ledger = Ledger { published: BTreeMap::from([(0, range.end)]), ..Ledger::default() };
    ledger.judge_one(range.start, heard, &mut verdict);
    verdict
}

mod tests {
    use super::*;

    fn verdict(heard: &[Heard]) -> Verdict {
        judge(&BTreeMap::from([(1, 4)]), &[heard.to_vec()])
    }

    #[test]
    fn the_checker_sees_what_is_lost_doubled_or_out_of_order() {
        let m = |n| Heard::Message(1, n);
        assert_eq!(verdict(&[m(0), m(1), m(2), m(3)]), Verdict::default());
        assert_eq!(verdict(&[m(0), m(3)]), Verdict { untold: 2, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), Heard::Gap, m(3)]), Verdict { told: 2, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(3), Heard::Gap]), Verdict { told: 2, ..Verdict::default() });
        assert_eq!(verdict(&[Heard::Gap, m(0), m(3)]), Verdict { untold: 2, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(1), m(1), m(2), m(3)]), Verdict { twice: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(2), m(1), m(3)]), Verdict { untold: 1, disordered: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(1)]), Verdict { untold: 2, ..Verdict::default() });
    }

    #[test]
    fn an_end_tells_of_what_follows_it_and_of_no_hole_before() {
        let m = |n| Heard::Message(1, n);
        assert_eq!(verdict(&[m(0), m(1), Heard::End]), Verdict { told: 2, ..Verdict::default() });
        assert_eq!(verdict(&[Heard::End]), Verdict { told: 4, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(2), Heard::End]), Verdict { told: 1, untold: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), Heard::End, m(3)]), Verdict { untold: 2, ..Verdict::default() });
    }

    #[test]
    fn what_failed_and_was_told_to_its_publisher_is_no_untold_loss_and_may_arrive() {
        let m = |n| Heard::Message(1, n);
        let ledger = Ledger { published: BTreeMap::from([(1, 4)]), failed: BTreeSet::from([(1, 1), (1, 2)]) };
        let verdict = |heard: &[Heard]| ledger.judge(&[heard.to_vec()]);
        assert_eq!(verdict(&[m(0), m(3)]), Verdict { failed: 2, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(2), m(3)]), Verdict { failed: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(1), m(2), m(3)]), Verdict::default());
        assert_eq!(verdict(&[m(0)]), Verdict { failed: 2, untold: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(2), m(2), m(3)]), Verdict { failed: 1, twice: 1, ..Verdict::default() });
        let heard_by_one = [vec![m(0), m(1), m(3)], vec![m(0), m(3)]];
        assert_eq!(ledger.judge(&heard_by_one), Verdict { failed: 2, untold: 1, ..Verdict::default() });
    }

    #[test]
    fn who_joined_later_need_not_have_heard_what_was_said_before() {
        let m = |n| Heard::Message(0, n);
        let since = |since, heard: &[Heard]| judge_range(since..4, heard);
        assert_eq!(since(2, &[m(2), m(3)]), Verdict::default());
        assert_eq!(since(2, &[m(1), m(2), m(3)]), Verdict::default());
        assert_eq!(since(2, &[m(3)]), Verdict { untold: 1, ..Verdict::default() });
        assert_eq!(since(2, &[m(1), m(3)]), Verdict { untold: 1, ..Verdict::default() });
        assert_eq!(since(2, &[]), Verdict { untold: 2, ..Verdict::default() });
        assert_eq!(since(2, &[Heard::End]), Verdict { told: 2, ..Verdict::default() });
    }
}
