//! The load checker: what publishers wrote and subscribers read, and the verdict. Its first line counts the losses.
//!
//! Publishers write `{"p":PUBLISHER,"n":NUMBER}` with numbers from 0 on; whoever listens records. A subscriber that misses
//! a number was told if a gap came after the hole: it says that anything before it may be missing, and may come after messages
//! that the broker delivered before it. The end of a connection tells of what would have come after it, and of no hole before
//! the last message; and only where the story expects connections to be closed with its code: any other end excuses nothing, and
//! counts by itself. What failed, and was told to its publisher, may arrive or not, but alike for all of a node: where one
//! of its subscribers heard it, it counts for the others like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

/// The close code of a connection that ended without a close frame (RFC 6455 §7.1.5).
pub const ABNORMAL_CLOSURE: u16 = 1006;

/// What one subscriber heard, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Heard {
    /// A message of a publisher.
    Message(u64, u64),
    /// Something before this may be missing.
    Gap,
    /// The end of the connection, with its close code ([`ABNORMAL_CLOSURE`] where no close frame came): what comes after it is
    /// missing.
    End(u16),
}

impl Heard {
    /// What a message of the native dialect means to the checker.
    pub fn of(value: &Value) -> Option<Self> {
        match value["type"].as_str()? {
            "message" => Some(Self::Message(value["content"]["p"].as_u64()?, value["content"]["n"].as_u64()?)),
            "gap" => Some(Self::Gap),
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
    /// Connections that ended with a close code that the story does not expect.
    pub unexpected_closes: u64,
}

impl std::iter::Sum for Verdict {
    fn sum<I: Iterator<Item = Self>>(verdicts: I) -> Self {
        verdicts.fold(Self::default(), |sum, one| Self {
            told: sum.told + one.told,
            untold: sum.untold + one.untold,
            failed: sum.failed + one.failed,
            twice: sum.twice + one.twice,
            disordered: sum.disordered + one.disordered,
            unexpected_closes: sum.unexpected_closes + one.unexpected_closes,
        })
    }
}

impl Verdict {
    /// The first line of a report.
    pub fn line(&self) -> String {
        let Self { told, untold, failed, twice, disordered, unexpected_closes } = self;
        format!(
            "told losses {told}, untold losses {untold}; failed {failed}, twice {twice}, out of order {disordered}, \
             unexpected closes {unexpected_closes}"
        )
    }

    /// Prints the line; fails unless G1, G2 and G3 hold, and unless every close was one that the story expects.
    pub fn assert_promises(&self) {
        println!("{}", self.line());
        let broken = (self.untold, self.twice, self.disordered, self.unexpected_closes);
        assert_eq!(broken, (0, 0, 0, 0), "{}", self.line());
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
    /// Close codes with which the story expects connections to end.
    pub expected_closes: &'static [u16],
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
        let is_expected = |code: &u16| self.expected_closes.contains(code);
        let last_gap = heard.iter().rposition(|item| *item == Heard::Gap);
        let last_end = heard.iter().rposition(|item| matches!(item, Heard::End(code) if is_expected(code)));
        let unexpected = heard.iter().filter(|item| matches!(item, Heard::End(code) if !is_expected(code)));
        verdict.unexpected_closes += unexpected.count() as u64;
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

/// Judges what each subscriber heard of publishers that published `0..count` each, and of which none was told of a failure, in a
/// story that expects connections to be closed with these codes.
pub fn judge(published: &BTreeMap<u64, u64>, subscribers: &[Vec<Heard>], expected_closes: &'static [u16]) -> Verdict {
    Ledger { published: published.clone(), expected_closes, ..Ledger::default() }.judge(subscribers)
}

/// Judges one subscriber of one publisher, number 0, for a time: of messages `range` each must have been heard or told.
pub fn judge_range(range: Range<u64>, heard: &[Heard], expected_closes: &'static [u16]) -> Verdict {
    let mut verdict = Verdict::default();
    let published = BTreeMap::from([(0, range.end)]);
    let ledger = Ledger { published, expected_closes, ..Ledger::default() };
    ledger.judge_one(range.start, heard, &mut verdict);
    verdict
}

mod tests {
    use super::*;

    fn verdict(heard: &[Heard]) -> Verdict {
        judge(&BTreeMap::from([(1, 4)]), &[heard.to_vec()], &[1012, 1013])
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
        let end = Heard::End(1012);
        assert_eq!(verdict(&[m(0), m(1), end.clone()]), Verdict { told: 2, ..Verdict::default() });
        assert_eq!(verdict(std::slice::from_ref(&end)), Verdict { told: 4, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), m(2), end.clone()]), Verdict { told: 1, untold: 1, ..Verdict::default() });
        assert_eq!(verdict(&[m(0), end, m(3)]), Verdict { untold: 2, ..Verdict::default() });
    }

    #[test]
    fn a_close_code_that_the_story_does_not_expect_excuses_nothing_and_counts() {
        let m = |n| Heard::Message(1, n);
        for code in [1000, 1001, 1008, 1011, ABNORMAL_CLOSURE] {
            let end = Heard::End(code);
            let unexpected = |untold| Verdict { untold, unexpected_closes: 1, ..Verdict::default() };
            assert_eq!(verdict(&[m(0), m(1), end.clone()]), unexpected(2), "{code}");
            assert_eq!(verdict(&[m(0), m(2), end.clone()]), unexpected(2), "{code}");
            assert_eq!(
                verdict(&[m(0), m(1), m(2), m(3), end.clone()]),
                unexpected(0),
                "{code}: nothing was left to lose"
            );
            // A gap before it still tells of the hole before the gap.
            assert_eq!(verdict(&[m(0), m(2), Heard::Gap, m(3), end]), Verdict { told: 1, ..unexpected(0) }, "{code}");
        }
        assert_eq!(verdict(&[m(0), m(1), Heard::End(1013)]), Verdict { told: 2, ..Verdict::default() });
        let nothing_expected = |heard: &[Heard]| judge_range(0..4, heard, &[]);
        let closed = nothing_expected(&[Heard::Message(0, 0), Heard::End(1012)]);
        assert_eq!(closed, Verdict { untold: 3, unexpected_closes: 1, ..Verdict::default() });
    }

    #[test]
    fn an_unexpected_close_fails_the_promises_even_where_no_message_was_lost() {
        let closed = Verdict { unexpected_closes: 1, ..Verdict::default() };
        assert!(std::panic::catch_unwind(|| closed.assert_promises()).is_err());
        Verdict { told: 1, failed: 1, ..Verdict::default() }.assert_promises();
    }

    #[test]
    fn a_notice_of_a_shutdown_excuses_nothing_before_the_close_that_it_announces() {
        assert_eq!(Heard::of(&json!({"type": "server-shutdown", "reconnectAfter": 0})), None);
    }

    #[test]
    fn what_failed_and_was_told_to_its_publisher_is_no_untold_loss_and_may_arrive() {
        let m = |n| Heard::Message(1, n);
        let ledger = Ledger {
            published: BTreeMap::from([(1, 4)]),
            failed: BTreeSet::from([(1, 1), (1, 2)]),
            ..Ledger::default()
        };
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
    fn a_member_that_joined_later_need_not_have_received_earlier_messages() {
        let m = |n| Heard::Message(0, n);
        let since = |since, heard: &[Heard]| judge_range(since..4, heard, &[1012]);
        assert_eq!(since(2, &[m(2), m(3)]), Verdict::default());
        assert_eq!(since(2, &[m(1), m(2), m(3)]), Verdict::default());
        assert_eq!(since(2, &[m(3)]), Verdict { untold: 1, ..Verdict::default() });
        assert_eq!(since(2, &[m(1), m(3)]), Verdict { untold: 1, ..Verdict::default() });
        assert_eq!(since(2, &[]), Verdict { untold: 2, ..Verdict::default() });
        assert_eq!(since(2, &[Heard::End(1012)]), Verdict { told: 2, ..Verdict::default() });
    }
}
