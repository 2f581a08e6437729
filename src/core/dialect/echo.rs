//! The echo dialect: every message goes back to its sender. For the conformance profile and for measuring.

use super::raw::Raw;
use super::{Dialect, Intent, Notice, OverRate, Payload, Route, Said};
use crate::model::Publication;

/// See the module.
pub struct Echo;

impl Dialect for Echo {
    const NAME: &'static str = "echo";
    const HAS_ROOM: bool = false;
    const SUBPROTOCOL: Option<&'static str> = None;
    const OVER_RATE: OverRate = OverRate::Drop;
    const TAKES_TOKENS: bool = false;

    fn route(_: &str) -> Option<Route<'_>> {
        None
    }

    #[inline]
    fn next<'a>(rest: &mut Option<Payload<'a>>) -> Option<Intent<'a>> {
        rest.take().map(Intent::Echo)
    }

    fn tell(notice: &Notice<'_>, out: &mut Vec<u8>) -> Said {
        Raw::tell(notice, out)
    }

    fn publication<'a>(publication: &'a Publication, out: &'a mut Vec<u8>) -> (Said, &'a [u8]) {
        Raw::publication(publication, out)
    }
}
