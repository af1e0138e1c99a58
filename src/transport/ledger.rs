//! What the bytes on the line were for. All messages of a direction share one compressed stream, so
//! bytes are counted where they leave the compressor (or have gone into the decompressor), and
//! shared out among the messages that have passed since the last count. That costs no byte; to
//! flush the compressor at each change of kind would cost about four, three times per file.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use psync_protocol::Message;
use psync_protocol::message::{Against, Base, Patches};

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Who speaks, and what will be stated.
    Handshake,
    /// Rows, what is said of them, and the plan.
    Manifests,
    /// Which contents are wanted, with the hashes of old blocks.
    Signatures,
    /// Contents as they are.
    Whole,
    /// Contents against blocks of the old file.
    AgainstBlocks,
    /// Contents against the old content, which both ends know.
    AgainstOldContent,
    /// What is complete, done or wrong, and whose turn it is.
    Acknowledgements,
}

impl Purpose {
    /// All of them, in the order in which they are told.
    pub const ALL: [Purpose; 7] = [
        Purpose::Handshake,
        Purpose::Manifests,
        Purpose::Signatures,
        Purpose::Whole,
        Purpose::AgainstBlocks,
        Purpose::AgainstOldContent,
        Purpose::Acknowledgements,
    ];

    /// The name in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Handshake => "handshake",
            Purpose::Manifests => "manifests",
            Purpose::Signatures => "signatures",
            Purpose::Whole => "whole",
            Purpose::AgainstBlocks => "against_blocks",
            Purpose::AgainstOldContent => "against_old_content",
            Purpose::Acknowledgements => "acknowledgements",
        }
    }

    /// What a message is for, and whether it is made of bytes that do not become smaller (hashes
    /// and what is coded already).
    fn of(message: &Message) -> (Purpose, Density) {
        match message {
            Message::Hello(_) | Message::Welcome(_) => (Purpose::Handshake, Density::Dense),
            Message::Statement(_) => (Purpose::Handshake, Density::Dense),
            Message::Rows(_)
            | Message::Moved(_)
            | Message::Known(_)
            | Message::Changes(_)
            | Message::Marks(_)
            | Message::Plan(_) => (Purpose::Manifests, Density::Loose),
            Message::Common(_) | Message::Props(_) | Message::Counterparts(_) => {
                (Purpose::Manifests, Density::Loose)
            }
            Message::Tree(_) | Message::Demand(_) | Message::Seal(_) => {
                (Purpose::Manifests, Density::Dense)
            }
            Message::Want(_) | Message::Unresolved(_) => (Purpose::Signatures, Density::Loose),
            Message::Signature(_) => (Purpose::Signatures, Density::Dense),
            Message::Literal(_) => (Purpose::Whole, Density::Loose),
            Message::Delta(_) | Message::Against(Against { base: Base::Blocks(_), .. }) => {
                (Purpose::AgainstBlocks, Density::Dense)
            }
            Message::Patches(_) | Message::Segment(_) | Message::Against(_) => {
                (Purpose::AgainstOldContent, Density::Dense)
            }
            Message::FileEnd(_) | Message::Proof(_) => (Purpose::Acknowledgements, Density::Dense),
            Message::File(_)
            | Message::FileFailed(_)
            | Message::Done(_)
            | Message::Problem(_)
            | Message::Counted(_)
            | Message::End
            | Message::Error { .. }
            | Message::Ping(_) => (Purpose::Acknowledgements, Density::Loose),
        }
    }
}

/// Whether compression makes a message smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Density {
    /// Hardly.
    Dense,
    /// As far as it does at all.
    Loose,
}

/// Bytes of one direction, by what they were for.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; Purpose::ALL.len()]);

impl Counts {
    fn add(&self, purpose: usize, bytes: u64) {
        self.0[purpose].fetch_add(bytes, Ordering::Relaxed);
    }

    /// The bytes of each purpose, `total` in all: what belongs to no whole message counts as the
    /// rest.
    pub(super) fn of(&self, total: u64) -> [u64; Purpose::ALL.len()] {
        let mut counts = array::from_fn(|at| self.0[at].load(Ordering::Relaxed));
        let known: u64 = counts.iter().sum();
        counts[Purpose::Acknowledgements as usize] += total.saturating_sub(known);
        counts
    }
}

/// Lengths of messages by what they are for: of those that do not become smaller, and of the others.
#[derive(Debug, Default)]
struct Lengths {
    dense: [u64; Purpose::ALL.len()],
    loose: [u64; Purpose::ALL.len()],
}

impl Lengths {
    fn add(&mut self, purpose: Purpose, density: Density, length: u64) {
        let lengths = match density {
            Density::Dense => &mut self.dense,
            Density::Loose => &mut self.loose,
        };
        lengths[purpose as usize] += length;
    }

    fn take(&mut self, others: &mut Lengths) {
        let Lengths { dense, loose } = std::mem::take(others);
        self.dense.iter_mut().zip(dense).for_each(|(own, other)| *own += other);
        self.loose.iter_mut().zip(loose).for_each(|(own, other)| *own += other);
    }
}

/// The messages of a direction that have passed since its bytes were counted last.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Those in blocks that are full.
    whole: Lengths,
    /// Those in the block that is not: a compressor holds it back.
    begun: Lengths,
    /// Bytes in that.
    filled: u64,
}

/// Bytes before compression that make a block of zstd (RFC 8878, section 3.1.1.2.4).
const BLOCK: u64 = 128 << 10;

impl Ledger {
    /// A message of so many bytes before compression has passed.
    pub(super) fn note(&mut self, message: &Message, length: u64) {
        let (purpose, density) = Purpose::of(message);
        let (whole, against_blocks) = match message {
            Message::Patches(patches) => (
                part_of_patch(patches, length, |base| matches!(base, Base::Nothing)),
                part_of_patch(patches, length, |base| matches!(base, Base::Blocks(_))),
            ),
            _ => (0, 0),
        };
        self.pass(Purpose::Whole, density, whole);
        self.pass(Purpose::AgainstBlocks, density, against_blocks);
        self.pass(purpose, density, length - whole - against_blocks);
    }

    fn pass(&mut self, purpose: Purpose, density: Density, length: u64) {
        let mut left = length;
        while self.filled + left >= BLOCK {
            let part = BLOCK - self.filled;
            self.begun.add(purpose, density, part);
            self.whole.take(&mut self.begun);
            self.filled = 0;
            left -= part;
        }
        self.begun.add(purpose, density, left);
        self.filled += left;
    }

    /// So many bytes have left a compressor: they are blocks that are full. See [`Ledger::settle`].
    pub(super) fn settle_blocks(&mut self, bytes: u64, counts: &Counts) {
        if !self.settle_whole(bytes, counts) {
            self.settle(bytes, counts);
        }
    }

    /// So many bytes on the line are these messages: those that do not become smaller take what
    /// they have, the others share the rest. As a compressor holds back what it was given last,
    /// what has not taken its due stays for the next count. False where there is no message yet to
    /// count the bytes for.
    pub(super) fn settle(&mut self, bytes: u64, counts: &Counts) -> bool {
        self.whole.take(&mut self.begun);
        self.settle_whole(bytes, counts)
    }

    fn settle_whole(&mut self, bytes: u64, counts: &Counts) -> bool {
        let Lengths { dense: dense_of, loose: loose_of } = &mut self.whole;
        let dense: u64 = dense_of.iter().sum();
        let loose: u64 = loose_of.iter().sum();
        if bytes == 0 || dense + loose == 0 {
            return false;
        }
        let for_dense = if loose == 0 { bytes } else { dense.min(bytes) };
        let taken = share(for_dense, dense_of, counts);
        for (length, taken) in dense_of.iter_mut().zip(taken) {
            *length = length.saturating_sub(taken);
        }
        if for_dense < bytes {
            share(bytes - for_dense, loose_of, counts);
            *loose_of = Default::default();
        }
        true
    }

    /// Everything has left that these messages are: nothing is due to them any more.
    pub(super) fn close(&mut self) {
        *self = Ledger::default();
    }
}

/// How much of a patch is for contents with such a base. What each of its contents takes it does not say:
/// the same, then.
fn part_of_patch(patches: &Patches, length: u64, is_such: impl Fn(&Base) -> bool) -> u64 {
    let bases = patches.contents.iter().map(|content| &content.base);
    let count = bases.filter(|base| is_such(base)).count() as u64;
    length * count / (patches.contents.len() as u64).max(1)
}

/// Shares bytes out in proportion to lengths; not one is lost.
fn share(
    bytes: u64,
    lengths: &[u64; Purpose::ALL.len()],
    counts: &Counts,
) -> [u64; Purpose::ALL.len()] {
    let mut shares = [0; Purpose::ALL.len()];
    let mut bytes_left = bytes;
    let mut length_left: u64 = lengths.iter().sum();
    for (purpose, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
        let part = u128::from(bytes_left) * u128::from(*length) / u128::from(length_left);
        // Not more than `bytes_left`, as `length` is at most `length_left`.
        let part = part as u64;
        counts.add(purpose, part);
        shares[purpose] = part;
        bytes_left -= part;
        length_left -= length;
    }
    shares
}

#[cfg(test)]
mod tests {
    use psync_protocol::ContentHash;

    use super::*;

    fn settled(messages: &[(Message, u64)], bytes: u64) -> [u64; 7] {
        let (mut ledger, counts) = (Ledger::default(), Counts::default());
        messages.iter().for_each(|(message, length)| ledger.note(message, *length));
        ledger.settle(bytes, &counts);
        counts.of(bytes)
    }

    #[test]
    fn hashes_take_what_they_have_and_the_rest_is_shared_by_size() {
        let messages = [
            (Message::Literal(Vec::new()), 3_000),
            (Message::FileEnd(Some(ContentHash([0; 32]))), 34),
            (Message::Rows(Vec::new()), 1_000),
        ];
        assert_eq!(settled(&messages, 434), [0, 100, 0, 300, 0, 0, 34]);
    }

    #[test]
    fn contents_count_as_what_they_are_against() {
        let patched = |base| psync_protocol::message::Patched { index: 0, base };
        let patches = |bases: &[Base]| {
            let contents = bases.iter().map(|base| patched(*base)).collect();
            Message::Patches(Patches { contents, patch: Vec::new() })
        };
        let against = |base| Message::Against(Against { base, old_len: 0 });
        let counts = |message: Message| {
            let counts = settled(&[(message, 90)], 90);
            (counts[Purpose::AgainstBlocks as usize], counts[Purpose::AgainstOldContent as usize])
        };
        let blocks = Base::Blocks(700);
        assert_eq!(counts(patches(&[blocks])), (90, 0));
        assert_eq!(counts(patches(&[Base::Own])), (0, 90));
        assert_eq!(counts(patches(&[Base::Own, blocks, Base::Own])), (30, 60));
        assert_eq!(counts(against(blocks)), (90, 0));
        assert_eq!(counts(against(Base::Own)), (0, 90));
    }

    #[test]
    fn no_byte_is_lost_however_few_there_are() {
        for bytes in 0..200 {
            let messages = [
                (Message::Literal(Vec::new()), 7),
                (Message::File(1), 3),
                (Message::Signature(Vec::new()), 50),
                (Message::FileEnd(Some(ContentHash([0; 32]))), 34),
                (Message::End, 2),
            ];
            assert_eq!(settled(&messages, bytes).iter().sum::<u64>(), bytes);
        }
    }

    #[test]
    fn what_a_compressor_holds_back_is_not_counted_as_what_follows() {
        let (mut ledger, counts) = (Ledger::default(), Counts::default());
        ledger.note(&Message::Literal(Vec::new()), 200_000);
        ledger.settle_blocks(100_000, &counts);
        ledger.note(&Message::End, 2);
        ledger.settle(50_000, &counts);
        let counted = counts.of(150_000);
        assert!(counted[Purpose::Acknowledgements as usize] <= 2);
        assert!(counted[Purpose::Whole as usize] >= 149_998);
    }

    #[test]
    fn bytes_before_the_first_message_wait_for_it() {
        let (mut ledger, counts) = (Ledger::default(), Counts::default());
        ledger.settle(100, &counts);
        assert_eq!(counts.of(100)[Purpose::Acknowledgements as usize], 100);
        ledger.note(&Message::Rows(Vec::new()), 500);
        ledger.settle(150, &counts);
        assert_eq!(counts.of(150)[Purpose::Manifests as usize], 150);
    }
}
