//! What a direction would carry if a rehearsal were the real thing: the same messages and contents
//! through a compressor of its own, and nobody who hears them. So its cost is made and not guessed.

use std::io;

use psync_protocol::Message;
use psync_protocol::message::Costs;

use super::Sending;
use super::effort::{Compression, Written};
use super::ledger::Counts;

/// The direction away from this end, as it would be.
pub(super) struct Shadow {
    sending: Sending,
    counts: Counts,
    total: u64,
    /// Whether the flight has been counted to its end, ahead of its real end.
    is_ahead: bool,
}

impl Shadow {
    /// Begins with the greeting. `rate` is what is known of the line, in KiB a second.
    pub(super) fn start(
        greeting: &Message,
        compression: Compression,
        rate: Option<u64>,
    ) -> io::Result<Shadow> {
        let counts = Counts::default();
        let sending = Sending::start(greeting, compression, rate, &counts)?;
        let mut shadow = Shadow { sending, counts, total: 0, is_ahead: false };
        shadow.flush()?;
        Ok(shadow)
    }

    /// A message goes past. What says what would have been said is no part of it.
    pub(super) fn push(&mut self, message: &Message) -> io::Result<()> {
        if self.is_ahead || matches!(message, Message::Counted(_)) {
            return Ok(());
        }
        // No time passes on a line that nothing goes over: what is known of it from before decides.
        self.sending.push(message, Written::default(), &self.counts)?;
        self.total += self.sending.encoder.take().len() as u64;
        Ok(())
    }

    /// What has gone past would leave.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sending.flush(&self.counts)?;
        self.total += self.sending.encoder.take().len() as u64;
        self.is_ahead = false;
        Ok(())
    }

    /// What has gone past would leave in the middle of a flight.
    pub(super) fn let_leave(&mut self) -> io::Result<()> {
        self.sending.let_leave(&self.counts)?;
        self.total += self.sending.encoder.take().len() as u64;
        Ok(())
    }

    /// Ends the flight here, before it really ends.
    pub(super) fn end_flight(&mut self) -> io::Result<()> {
        self.push(&Message::End)?;
        self.flush()?;
        self.is_ahead = true;
        Ok(())
    }

    /// The bytes so far.
    pub(super) fn costs(&self) -> Costs {
        self.counts.of(self.total)
    }
}
