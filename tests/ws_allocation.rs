//! The path of a message allocates nothing: decoded where it lies, read without a copy, written into a buffer that is there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tidegate_core::dialect::native::{self, Content, Request};
use tidegate_core::ws::frame::{self, BINARY, PING, TEXT};
use tidegate_core::ws::message::{Event, Rules, decode};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: every call is passed on to `System` unchanged; the counter is a plain thread-local cell that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn a_message_from_its_octets_to_its_fan_out_allocates_nothing() {
    let request = r#"{"type":"message","roomId":"lobby","content":{"text":"grüße"},"ref":17}"#;
    let mut bytes = Vec::new();
    frame::write_masked(&mut bytes, TEXT, [1, 2, 3, 4], request.as_bytes());
    frame::write_masked(&mut bytes, BINARY, [5, 6, 7, 8], &[9; 70_000]);
    frame::write_masked(&mut bytes, PING, [5, 6, 7, 8], b"there?");
    let rules = Rules { message_bytes: 100_000, deflate: None };
    let (mut partial, mut position, mut out) = (None, 0, Vec::with_capacity(4096));
    let mut events = 0;

    let counted = allocations(|| {
        while let Ok(Some(event)) = decode(&mut partial, &mut bytes, &mut position, &rules) {
            events += 1;
            let Event::Text(text) = event else { continue };
            let Ok(Request::Message { room, content, .. }) = native::parse(text) else { continue };
            native::message(
                &mut out,
                &room,
                native::Sender { from: Some(b"00c0ffee"), user: None },
                Content::Json(content.as_bytes()),
                1,
            );
            frame::write_header(&mut out, TEXT, false, 100);
        }
    });

    assert_eq!((events, out.is_empty(), counted), (3, false, 0));
}
