//! The rules of a session, written a second time and in another way: over the whole list of messages
//! that one end said and accepted. What breaks them here must have been refused there.

use std::collections::BTreeSet;

use psync_protocol::message::{Coverage, Demand, Intent, Moved, Verdict, WantKind};
use psync_protocol::{Message, Role};

/// Finds the first message that breaks the rules, if any; says its place in the list.
pub(crate) fn breach(timeline: &[(Role, Message)]) -> Option<usize> {
    let mut rules = Rules::default();
    timeline.iter().position(|(who, message)| rules.follow(*who, message).is_none())
}

#[derive(Default)]
struct Rules {
    flight: usize,
    /// Names of the messages of this flight so far, without `Ping`.
    said: Vec<&'static str>,
    restate: bool,
    /// Whether that is of all rows.
    all: bool,
    demand: Option<Demand>,
    /// Whether the initiator left out what both have.
    common: bool,
    /// Whether the statement of this flight is about changes only.
    changes: bool,
    /// Directories that were moved, by where they were.
    moved: Vec<Vec<u8>>,
    planned: bool,
    owed: BTreeSet<u64>,
    asked: BTreeSet<u64>,
    open: Option<u64>,
    /// What the initiator has sent in the flight of the plan without having been asked.
    given: BTreeSet<u64>,
    unproved: bool,
    signature: u64,
    done: [bool; 2],
    /// Whether contents are only counted.
    rehearsal: bool,
}

impl Rules {
    /// None where the message may not come.
    fn follow(&mut self, who: Role, message: &Message) -> Option<()> {
        let talker = [Role::Initiator, Role::Responder][self.flight % 2];
        let greeted = self.flight > 1 || !self.said.is_empty();
        let allowed = who == talker
            && (greeted || matches!(message, Message::Hello(_) | Message::Welcome(_)));
        if !allowed {
            return None;
        }
        if let Message::Hello(hello) = message {
            self.rehearsal = hello.intent == Intent::Rehearse;
        }
        if let Message::Ping(_) = message {
            return Some(());
        }
        let last = self.said.last().copied().unwrap_or("");
        let in_order = |order: &[(&str, &[&str])]| {
            order.iter().any(|(name, before)| *name == message.name() && before.contains(&last))
        };
        let legal = if self.planned {
            self.exchange(message)
        } else if let Message::Moved(moved) = message {
            let first = self.flight == 0 && self.changes;
            first && in_order(&[("Moved", &["Statement", "Rows", "Moved"])]) && self.moves(moved)
        } else if talker == Role::Initiator {
            if let Message::Statement(statement) = message {
                self.changes = matches!(statement.coverage, Coverage::Changes { .. });
            }
            let start = if self.flight == 0 { "Hello" } else { "" };
            let blank = self.demand == Some(Demand::Blank);
            let plan = self.flight > 0
                && (!self.restate && in_order(&[("Plan", &[""])])
                    || blank && in_order(&[("Plan", &["Seal"])])
                    || in_order(&[("Plan", &["Plan"])]));
            let extra = self.said.contains(&"Plan");
            let sealed = extra
                && self.said.iter().rposition(|name| *name == "Seal")
                    > self.said.iter().position(|name| *name == "Plan");
            let tree = self.flight == 0 && !self.changes;
            let numbers = self.flight == 0 && self.changes;
            let differences = matches!(self.demand, Some(Demand::Differences(_))) && !self.changes;
            self.common |= differences && matches!(message, Message::Common(_));
            plan || !extra
                && in_order(&[
                    ("Hello", if self.flight == 0 { &[""] } else { &[] }),
                    ("Statement", &[start]),
                    ("Rows", &["Statement", "Rows"]),
                    ("Tree", if tree { &["Statement", "Rows"] } else { &[] }),
                    ("Known", if numbers { &["Statement", "Rows", "Moved"] } else { &[] }),
                    ("Changes", &["Known", "Changes"]),
                    ("Common", if differences { &["Statement", "Rows"] } else { &[] }),
                    ("Props", &["Common", "Props"]),
                    ("End", &["Seal"]),
                    (
                        "Seal",
                        &[
                            "Statement",
                            "Rows",
                            "Moved",
                            "Known",
                            "Changes",
                            "Tree",
                            "Common",
                            "Props",
                        ],
                    ),
                ])
                || (extra
                    && !sealed
                    && in_order(&[("Rows", &["Plan", "Rows"]), ("Seal", &["Plan", "Rows"])]))
                || (sealed && self.exchange(message))
        } else {
            let start = if self.flight == 1 { "Welcome" } else { "" };
            if let Message::Welcome(welcome) = message {
                self.restate = matches!(welcome.verdict, Verdict::Restate { .. });
                self.all = matches!(welcome.verdict, Verdict::Restate { since: 0, .. });
            }
            if let Message::Statement(statement) = message {
                self.changes = matches!(statement.coverage, Coverage::Changes { .. });
            }
            let numbers = self.flight == 1 && self.changes && !self.restate;
            let rows: &[&str] = if numbers { &["Statement", "Marks", "Rows"] } else { &[] };
            let may_demand = match message {
                _ if self.flight == 1 => self.all,
                Message::Demand(Demand::Everything) => self.common,
                _ => false,
            };
            if let (Message::Demand(demand), true) = (message, may_demand) {
                self.demand = Some(demand.clone());
                self.restate = true;
            }
            let common = |before: &'static [&str]| if self.common { before } else { &[] };
            in_order(&[
                ("Counterparts", common(&["Statement", "Marks", "Rows", "Counterparts"])),
                ("Demand", if may_demand { &["Statement"] } else { &[] }),
                (
                    "Props",
                    if self.common {
                        &["Statement", "Marks", "Rows", "Counterparts", "Props"]
                    } else {
                        &[]
                    },
                ),
                ("Welcome", if self.flight == 1 { &[""] } else { &[] }),
                ("Problem", &[start, "Problem"]),
                ("Statement", &[start, "Problem"]),
                ("Marks", &["Statement", "Marks"]),
                ("Rows", &["Statement", "Marks", "Rows"]),
                ("Patches", if self.common { &[] } else { &["Statement", "Marks", "Rows"] }),
                ("Proof", &["Patches"]),
                ("Known", rows),
                ("Changes", &["Known", "Changes"]),
                ("End", &["Seal"]),
                (
                    "Seal",
                    &["Statement", "Demand", "Marks", "Rows", "Known", "Changes", "Props", "Proof"],
                ),
            ])
        };
        if !legal {
            return None;
        }
        self.said.push(message.name());
        if let Message::End = message {
            self.turn();
        }
        Some(())
    }

    /// Each directory once, in order, and none within another.
    fn moves(&mut self, moved: &Moved) -> bool {
        let names = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
        };
        let (from, to) = (moved.from.as_bytes(), moved.to.as_bytes());
        let apart = |other: &[u8]| {
            let (one, other) = (names(from), names(other));
            !one.starts_with(&other) && !other.starts_with(&one)
        };
        let legal =
            apart(to) && self.moved.iter().all(|before| before[..] < *from && apart(before));
        self.moved.push(from.to_vec());
        legal
    }

    fn turn(&mut self) {
        self.planned |= self.said.contains(&"Plan");
        if self.flight >= 2 && self.flight.is_multiple_of(2) {
            self.restate = false;
            self.demand = None;
        } else if self.flight > 2 {
            self.common = false;
        }
        self.flight += 1;
        self.said.clear();
        self.owed = std::mem::take(&mut self.asked);
    }

    fn exchange(&mut self, message: &Message) -> bool {
        let done = &mut self.done[self.flight % 2];
        if self.signature > 0 {
            let Message::Signature(piece) = message else { return false };
            let fits = piece.len() as u64 <= self.signature;
            self.signature = self.signature.saturating_sub(piece.len() as u64);
            return fits;
        }
        if self.rehearsal && matches!(message, Message::File(_) | Message::Patches(_)) {
            return false;
        }
        match message {
            Message::Problem(_) => true,
            Message::Counted(counted) => {
                let mut contents = counted.contents.iter().cloned().flatten();
                self.rehearsal && contents.all(|index| self.comes(index))
            }
            Message::Want(want) => {
                self.signature = match &want.kind {
                    WantKind::Delta(delta) | WantKind::Coarse(delta) | WantKind::Fine(delta) => {
                        delta.signature_len
                    }
                    WantKind::Whole | WantKind::Base | WantKind::Confirm => 0,
                };
                !*done && self.asked.insert(want.index)
            }
            Message::File(index) => {
                self.open.is_none() && self.comes(*index) && self.open.replace(*index).is_none()
            }
            Message::Patches(patches) => {
                self.unproved = true;
                self.open.is_none()
                    && patches.contents.iter().all(|content| self.comes(content.index))
            }
            Message::Unresolved(unresolved) => {
                self.open.is_none() && self.owed.remove(&unresolved.index)
            }
            Message::Against(_) | Message::Literal(_) | Message::Delta(_) | Message::Segment(_) => {
                self.open.is_some()
            }
            Message::FileEnd(hash) => {
                self.unproved |= hash.is_none();
                self.open.take().is_some()
            }
            Message::Proof(_) => {
                self.open.is_none() && std::mem::replace(&mut self.unproved, false)
            }
            Message::FileFailed(failure) => match self.open.take() {
                Some(open) => open == failure.index,
                None => self.comes(failure.index),
            },
            Message::Done(_) => self.asked.is_empty() && !std::mem::replace(done, true),
            Message::End => self.open.is_none() && self.owed.is_empty() && !self.unproved,
            _ => false,
        }
    }

    /// A content comes that is owed, or, with the plan, any once. How many paths there are is not
    /// known here: the actors know.
    fn comes(&mut self, index: u64) -> bool {
        let with_plan = !self.planned;
        self.owed.remove(&index) || with_plan && self.given.insert(index)
    }
}
