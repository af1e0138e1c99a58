//! Who waits at the door. Where too many do, it is one of those whose address has most there, and of
//! these the one that has waited longest: a peer that has its key at hand is through in a moment, and
//! neither who stands there nor who comes again and again from a few addresses keeps it out.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::Limits;

/// Connections of which it is not known yet who they are, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    waiting: VecDeque<(u64, Origin)>,
}

/// Where a connection comes from: an address, or of IPv6 the network that one customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl Origin {
    fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Origin::V6([a, b, c, d])
            }
        }
    }
}

impl Gate {
    /// A connection comes. Gives those that have to go for it.
    pub(super) fn enter(&mut self, number: u64, from: IpAddr, limits: &Limits) -> Vec<u64> {
        let origin = Origin::of(from);
        let mut evicted = Vec::new();
        if self.of(origin) >= limits.strangers_of_address {
            evicted.extend(self.oldest_of(origin));
        } else if self.waiting.len() >= limits.strangers {
            // Who comes counts, too: an address does not make room for itself at another's cost.
            let crowd = |other: Origin| self.of(other) + usize::from(other == origin);
            let most = self.waiting.iter().map(|(_, other)| *other).rev().max_by_key(|&o| crowd(o));
            evicted.extend(most.and_then(|most| self.oldest_of(most)));
        }
        self.waiting.push_back((number, origin));
        evicted
    }

    /// How many of an origin wait.
    fn of(&self, origin: Origin) -> usize {
        self.waiting.iter().filter(|(_, other)| *other == origin).count()
    }

    fn oldest_of(&mut self, origin: Origin) -> Option<u64> {
        let oldest = self.waiting.iter().position(|(_, other)| *other == origin)?;
        self.waiting.remove(oldest).map(|(number, _)| number)
    }

    /// A connection is known now, or gone.
    pub(super) fn leave(&mut self, number: u64) {
        self.waiting.retain(|(other, _)| *other != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(gate: &mut Gate, number: u64, from: &str) -> Vec<u64> {
        let limits = Limits { strangers: 4, strangers_of_address: 2, ..Limits::default() };
        gate.enter(number, from.parse().unwrap(), &limits)
    }

    #[test]
    fn of_too_many_from_one_address_the_oldest_goes() {
        let mut gate = Gate::default();
        assert!(enter(&mut gate, 1, "10.0.0.1").is_empty());
        assert!(enter(&mut gate, 2, "::ffff:10.0.0.1").is_empty());
        assert_eq!(enter(&mut gate, 3, "10.0.0.1"), [1]);
        assert!(enter(&mut gate, 4, "10.0.0.2").is_empty());
        gate.leave(2);
        assert!(enter(&mut gate, 5, "10.0.0.1").is_empty());
    }

    #[test]
    fn who_has_most_there_makes_room() {
        let mut gate = Gate::default();
        // The first one is a peer on a slow line, the others come again and again.
        for (number, from) in [(1, "10.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.2"), (4, "10.0.0.3")] {
            assert!(enter(&mut gate, number, from).is_empty());
        }
        for number in 5..500 {
            let from = if number % 2 == 0 { "10.0.0.2" } else { "10.0.0.3" };
            let gone = enter(&mut gate, number, from);
            assert!(gone.len() == 1 && gone != [1], "{number}: {gone:?}");
        }
    }

    #[test]
    fn of_too_many_in_all_the_oldest_goes_and_one_network_counts_as_one_address() {
        let mut gate = Gate::default();
        for (number, from) in
            [(1, "2001:db8::1"), (2, "2001:db8::2"), (3, "10.0.0.1"), (4, "10.0.0.2")]
        {
            assert!(enter(&mut gate, number, from).is_empty());
        }
        assert_eq!(enter(&mut gate, 5, "10.0.0.3"), [1]);
        assert!(enter(&mut gate, 6, "2001:db8:0:1::1") == [2]);
    }
}
