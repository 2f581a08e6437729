//! From the shard to a client: what is answered, delivered, or waits in an outbox.
//!
//! Octets to a connection go through here alone, so that they keep their order: what finds an outbox waits behind it, and what
//! finds a send queued in the driver's batch has that batch submitted first. Of the shard's parts it knows [`Clients`] only.

mod encode;
mod gap;
mod outbox;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use super::clients::Clients;
use super::driver::{Driver, ErrorKind, Event, Queued};
use super::turn::Turn;
use crate::close::CloseReason;
use crate::connection::{Account, Chunk, Frames, Handle, State, Tag};
use crate::counters::MessageType;
use crate::dialect::{DialectId, Form, Notice, Payload, Said};
use crate::http;
use crate::model::Publication;
use crate::room::Encoded;
use crate::ws::deflate::Deflate;
use crate::ws::frame;

/// See the module.
pub(super) struct Writer<D> {
    driver: D,
    /// Frames for the connection whose event is being handled; one send takes them all.
    reply: Vec<u8>,
    encoding: encode::Scratch,
    /// Messages of rooms in the reply.
    reply_messages: u32,
    /// What the outboxes take of memory.
    account: Account,
    /// Where what several pieces of an outbox hold is put together for one send.
    gathered: Vec<u8>,
    /// Octets that the driver's batch has taken and not failed to send, for `ws_bytes_total`.
    queued_bytes: i64,
    /// Messages in them, for `ws_messages_total`.
    queued_messages: i64,
    submitted: Vec<Event>,
    /// What the driver told while a batch had to be submitted in the middle of an event: handled after it.
    later: Vec<Event>,
}

/// What a send carries.
#[derive(Clone, Copy)]
struct Load {
    octets: usize,
    /// Messages of rooms, for `ws_messages_total`.
    messages: u32,
}

impl Load {
    #[inline]
    fn of(chunk: &Chunk) -> Self {
        Self { octets: chunk.bytes().len(), messages: chunk.messages }
    }
}

impl<D: Driver> Writer<D> {
    pub(super) fn new(driver: D) -> Self {
        Self {
            driver,
            reply: Vec::new(),
            encoding: encode::Scratch::default(),
            reply_messages: 0,
            account: Account::default(),
            gathered: Vec::new(),
            queued_bytes: 0,
            queued_messages: 0,
            submitted: Vec::new(),
            later: Vec::new(),
        }
    }

    /// The driver, for calls that send nothing to an armed socket.
    #[inline]
    pub(super) fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The same, to ask.
    pub(super) fn driver_ref(&self) -> &D {
        &self.driver
    }

    // The reply: frames for the connection whose event is being handled.

    /// Appends a notice to the reply; false where the dialect has no words for it.
    pub(super) fn reply(&mut self, turn: &Turn, dialect: DialectId, notice: &Notice<'_>) -> bool {
        let (said, payload) = self.encoding.notice(dialect, notice);
        let Some(opcode) = encode::opcode(said) else { return false };
        frame::write_frame(&mut self.reply, opcode, payload);
        turn.count_out(message_type(notice), 1);
        true
    }

    /// The same in the dialect of the connection, if it is there.
    pub(super) fn reply_to(&mut self, turn: &Turn, clients: &mut Clients, handle: Handle, notice: &Notice<'_>) {
        if let Some(dialect) = clients.dialect(handle) {
            self.reply(turn, dialect, notice);
        }
    }

    /// Whether a dialect has words for a notice.
    pub(super) fn has_words(&mut self, dialect: DialectId, notice: &Notice<'_>) -> bool {
        self.encoding.notice(dialect, notice).0 != Said::Nothing
    }

    /// Appends a message as it came in, in the connection's form.
    pub(super) fn reply_message(&mut self, message: Payload<'_>, deflate: Option<Deflate>) {
        let opcode = match message {
            Payload::Text(_) => frame::TEXT,
            Payload::Binary(_) => frame::BINARY,
        };
        encode::write(&mut self.reply, opcode, message.bytes(), deflate);
        self.reply_messages += 1;
    }

    /// Appends a ping.
    pub(super) fn reply_ping(&mut self) {
        frame::write_frame(&mut self.reply, frame::PING, &[]);
    }

    /// Appends the answer to a ping (RFC 6455 §5.5.3).
    pub(super) fn reply_pong(&mut self, turn: &Turn, payload: &[u8]) {
        frame::write_frame(&mut self.reply, frame::PONG, payload);
        turn.count_out(MessageType::Ping, 1);
    }

    /// Appends a close frame; without a code it has no payload (RFC 6455 §5.5.1).
    pub(super) fn reply_close(&mut self, code: Option<u16>, text: &str) {
        match code {
            Some(code) => frame::write_close(&mut self.reply, code, text),
            None => frame::write_frame(&mut self.reply, frame::CLOSE, &[]),
        }
    }

    /// Appends the answer that grants an upgrade.
    pub(super) fn reply_upgrade(&mut self, key: &[u8], protocol: Option<&str>, deflate: Option<Deflate>) {
        http::accept(&mut self.reply, key, protocol, deflate.map(Deflate::answer));
    }

    /// Octets of the reply so far.
    #[inline]
    pub(super) fn reply_len(&self) -> usize {
        self.reply.len()
    }

    /// Sends the reply to an open connection, and leaves it empty: nothing follows a close frame (RFC 6455 §5.5.1).
    #[inline]
    pub(super) fn flush(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle) {
        self.flush_with(|writer, reply, messages| writer.send(turn, clients, handle, reply, messages));
    }

    /// The same for a connection on its way out: its close frame and what goes before it.
    pub(super) fn flush_last_words(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle) {
        self.flush_with(|writer, reply, messages| {
            writer.send_where(turn, clients, handle, reply, messages, |state| state != State::Released);
        });
    }

    #[inline]
    fn flush_with(&mut self, send: impl FnOnce(&mut Self, &[u8], u32)) {
        if self.reply.is_empty() {
            return;
        }
        let (reply, messages) = (std::mem::take(&mut self.reply), std::mem::take(&mut self.reply_messages));
        send(self, &reply, messages);
        self.reply = reply;
        self.reply.clear();
    }

    /// Ends an open connection from our side, with the reply in front. The shard's `settle` carries it out.
    pub(super) fn close(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, reason: CloseReason) {
        self.flush(turn, clients, handle);
        clients.close(turn, handle, reason);
    }

    // Sending.

    /// Sends octets of our own making, such as answers and pongs, to an open connection; with how many messages of rooms are in them.
    fn send(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, bytes: &[u8], messages: u32) {
        self.send_where(turn, clients, handle, bytes, messages, |state| state == State::Open);
    }

    /// Sends octets of our own making in whatever state. They are never dropped.
    pub(super) fn transmit(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, bytes: &[u8]) {
        self.send_where(turn, clients, handle, bytes, 0, |state| state != State::Released);
    }

    fn send_where(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        bytes: &[u8],
        messages: u32,
        may: impl Fn(State) -> bool,
    ) {
        let Some(entry) = clients.find(handle).filter(|entry| may(entry.state)) else { return };
        if entry.batch != 0 && entry.batch == self.driver.batch() {
            self.submit(turn, clients);
            return self.send_where(turn, clients, handle, bytes, messages, may);
        }
        if entry.outbox.is_some() {
            return self.put(turn, clients, handle, Frames::Own(bytes, Tag::Control, messages));
        }
        let result = self.driver.send(entry.fd, bytes);
        let chunk = || Chunk::whole(Rc::from(bytes), Tag::Control, messages);
        self.handle_sent(turn, clients, handle, Load { octets: bytes.len(), messages }, result, chunk);
    }

    /// Encodes publications for all members of one form.
    pub(super) fn encode(&mut self, form: Form, publications: &[Arc<Publication>]) -> Encoded {
        self.encoding.encode(form, publications)
    }

    /// Delivers a chunk that other connections get too, unless this one was closed meanwhile.
    pub(super) fn deliver(&mut self, turn: &mut Turn, clients: &mut Clients, handle: Handle, chunk: &Chunk) {
        let Some(entry) = clients.open(handle) else { return };
        if entry.outbox.is_some() {
            return self.put(turn, clients, handle, Frames::Shared(chunk));
        }
        let batch = self.driver.batch();
        if batch != 0 && entry.batch == batch {
            self.submit(turn, clients);
            return self.deliver(turn, clients, handle, chunk);
        }
        entry.batch = batch;
        let load = Load::of(chunk);
        match self.driver.queue(entry.fd, handle, chunk) {
            Queued::Later => {
                self.queued_bytes += load.octets as i64;
                self.queued_messages += i64::from(load.messages);
            }
            Queued::Now(result) => self.handle_sent(turn, clients, handle, load, result, || chunk.clone()),
        }
    }

    /// Has the driver do what it has queued, and handles what failed of it. What else it tells waits for
    /// [`Writer::take_later`]: this may be called in the middle of an event.
    pub(super) fn submit(&mut self, turn: &mut Turn, clients: &mut Clients) {
        let mut events = std::mem::take(&mut self.submitted);
        self.driver.submit(&mut events);
        for event in events.drain(..) {
            match event {
                Event::Unsent { handle, chunk, result } => self.handle_unsent(turn, clients, handle, &chunk, result),
                Event::Ready(_) | Event::Released(_) | Event::Woken | Event::Ticked(_) => self.later.push(event),
            }
        }
        self.submitted = events;
    }

    /// What the driver told in the middle of an event, in order.
    #[inline]
    pub(super) fn take_later(&mut self) -> Option<Vec<Event>> {
        (!self.later.is_empty()).then(|| std::mem::take(&mut self.later))
    }

    /// A send that the driver had queued was short or failed.
    pub(super) fn handle_unsent(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        chunk: &Chunk,
        result: Result<usize, ErrorKind>,
    ) {
        let load = Load::of(chunk);
        self.queued_bytes -= load.octets as i64;
        self.queued_messages -= i64::from(load.messages);
        self.handle_sent(turn, clients, handle, load, result, || chunk.clone());
    }

    #[inline]
    fn handle_sent(
        &mut self,
        turn: &mut Turn,
        clients: &mut Clients,
        handle: Handle,
        load: Load,
        result: Result<usize, ErrorKind>,
        chunk: impl Fn() -> Chunk,
    ) {
        let sent = match result {
            Ok(sent) => sent,
            Err(ErrorKind::WouldBlock) => 0,
            Err(ErrorKind::NoMemory | ErrorKind::Broken) => return clients.gone(turn, handle, CloseReason::Reset),
        };
        turn.counters.bytes_out.add(sent as u64);
        if sent < load.octets {
            self.begin_outbox(turn, clients, handle, &chunk(), sent);
        } else {
            turn.count_out(MessageType::Message, u64::from(load.messages));
        }
    }

    /// Counts what the batches took. A failure that comes later is taken off the next count: a counter never falls.
    pub(super) fn count_queued(&mut self, turn: &Turn) {
        if self.queued_bytes > 0 {
            turn.counters.bytes_out.add(std::mem::take(&mut self.queued_bytes) as u64);
        }
        if self.queued_messages > 0 {
            turn.count_out(MessageType::Message, std::mem::take(&mut self.queued_messages) as u64);
        }
    }

    /// Gives a socket back to the driver, after what is queued. True where the slot is free at once; otherwise
    /// [`Event::Released`] follows.
    pub(super) fn release(&mut self, clients: &mut Clients, handle: Handle, reset: bool) -> bool {
        let Some(fd) = clients.find(handle).map(|entry| entry.fd) else { return false };
        if reset {
            self.driver.reset(fd);
        }
        let mut events = std::mem::take(&mut self.submitted);
        self.driver.release(fd, handle, &mut events);
        let mut is_free = false;
        for event in events.drain(..) {
            if matches!(event, Event::Released(released) if released == handle) {
                is_free = true;
            } else {
                self.later.push(event);
            }
        }
        self.submitted = events;
        is_free
    }
}

/// What a notice counts as.
const fn message_type(notice: &Notice<'_>) -> MessageType {
    match notice {
        Notice::Welcome { .. } | Notice::Shutdown { .. } => MessageType::Control,
        Notice::Joined { .. } => MessageType::Join,
        Notice::Left { .. } => MessageType::Leave,
        Notice::Acknowledged { .. } => MessageType::Ack,
        Notice::Pong { .. } => MessageType::Ping,
        Notice::Authenticated { .. } | Notice::TokenExpiring { .. } => MessageType::Auth,
        Notice::Refused { .. } | Notice::Unauthorized { .. } => MessageType::Error,
        Notice::Gap { .. } => MessageType::Gap,
    }
}
