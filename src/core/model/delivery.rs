//! What is promised about delivery, and what is told where the promise ends.

/// What a publisher was promised (G5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckLevel {
    /// The local bus took it.
    Node,
    /// A fence sent through the broker after it came back.
    Broker,
}

/// Why messages may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapReason {
    /// The broker was away, or dropped for us.
    Broker,
    /// A shard's mailbox was full.
    Mailbox,
    /// The connection's outbox dropped its oldest.
    Outbox,
    /// A backend's message was over the limit.
    TooLarge,
}

impl GapReason {
    /// Every reason, in order.
    pub const ALL: [Self; 4] = [Self::Broker, Self::Mailbox, Self::Outbox, Self::TooLarge];

    /// The name in `gap` messages and the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Mailbox => "mailbox",
            Self::Outbox => "outbox",
            Self::TooLarge => "too-large",
        }
    }
}
