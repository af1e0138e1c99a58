//! New files that are like something that the peer has: a copy that was edited, the next version under
//! another name. They go as patches against that, which the peer finds by its check.
//!
//! Candidates are found by their sketches and by their names, among what has not changed here since it
//! was agreed, and what was deleted or edited. A candidate is taken only if enough of the new file is
//! copied from it. A patch has one old content for each new one; what further ones could add is mostly
//! found in the patch's other contents.

use std::cmp::Reverse;
use std::collections::HashMap;

use psync_protocol::{Check, Content, ContentHash, RelPath};

use super::patches::{self, Job, Known};
use super::{Item, Sending, SyncError, known, whole};
use crate::delta::{self, PATCH_MAX, Sketch};
use crate::index::SketchBytes;
use crate::manifest::Stored;

/// A file shorter than this costs hardly more than a patch of it, in bytes.
const WORTH: u64 = 256;
/// New files of so many bytes are looked at in a flight, at most: they are read once more for it.
const LOOKED_AT: u64 = 256 << 20;
/// So often a new file is compared with an old one in a flight, at most.
const LOOKS: usize = 4 << 20;
/// Candidates that are tried for a file.
const TRIED: usize = 3;
/// A patch pays if this part of the new file is copied: two of five.
const COPIED: (usize, usize) = (2, 5);
/// More than this part need not be looked for: nine of ten.
const COPIED_WELL: (usize, usize) = (9, 10);

/// Where an old content is at hand, whose hash is known.
#[derive(Debug, Clone)]
enum Place {
    Tree(RelPath),
    Store,
}

/// Something that a new file may be like.
#[derive(Debug, Clone)]
struct Candidate {
    /// How much speaks for it.
    score: usize,
    /// How far its size is from the new file's.
    off: u64,
    hash: ContentHash,
    place: Place,
}

/// A new file, and the best that has been found for it.
struct Wish<'a> {
    item: &'a Item,
    sketch: Sketch,
    candidates: Vec<Candidate>,
}

impl Wish<'_> {
    fn look_at(
        &mut self,
        path: &[u8],
        size: u64,
        sketch: Option<SketchBytes>,
        hash: ContentHash,
        place: &dyn Fn() -> Option<Place>,
    ) {
        let fits = (1..=PATCH_MAX as u64).contains(&size);
        let shared =
            sketch.map_or(0, |sketch| Sketch::from_bytes(sketch).shared_with(&self.sketch));
        let score = score(self.item.at.as_bytes(), path, shared);
        let off = size.abs_diff(self.item.size);
        let is_better =
            |worst: &Candidate| (score, Reverse(off)) > (worst.score, Reverse(worst.off));
        let has_room = self.candidates.len() < TRIED;
        if score == 0 || !fits || !has_room && !self.candidates.last().is_some_and(is_better) {
            return;
        }
        if self.candidates.iter().any(|candidate| candidate.hash == hash) {
            return;
        }
        let Some(place) = place() else { return };
        self.candidates.truncate(TRIED - 1);
        self.candidates.push(Candidate { score, off, hash, place });
        self.candidates.sort_by_key(|candidate| (Reverse(candidate.score), candidate.off));
    }
}

/// How much speaks for the file at `old` being like the one at `new`, of whose sketches so many
/// numbers are `shared`. 0: nothing.
fn score(new: &[u8], old: &[u8], shared: usize) -> usize {
    let ((new_dir, new_name), (old_dir, old_name)) = (split(new), split(old));
    let same_name = new_name == old_name;
    let next_version = new_dir == old_dir && stem(new_name).eq(stem(old_name));
    let alike = same_name || next_version;
    if shared == 0 && !alike {
        return 0;
    }
    // What is shared says most; then names; then where it is.
    let near = new_dir.rsplit(|byte| *byte == b'/').zip(old_dir.rsplit(|byte| *byte == b'/'));
    let near = near.take_while(|(new, old)| new == old).count().min(3);
    shared * 16 + usize::from(alike) * 8 + usize::from(next_version) * 4 + near
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

/// A name without what tells one version from another: its digits, and what stands between them.
fn stem(name: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let is_part = |byte: &u8| !byte.is_ascii_digit() && !b".-_ ()".contains(byte);
    name.iter().copied().filter(is_part)
}

impl Sending<'_, '_, '_> {
    /// Sends new files: against what they are like, or whole.
    pub(super) fn new_files(
        &mut self,
        items: Vec<Item>,
        patched: &mut Vec<Job>,
    ) -> Result<(), SyncError> {
        let mut found = self.candidates(&items)?;
        // These come first: the line has something to do while patches are made.
        let (like, unlike): (Vec<Item>, Vec<Item>) =
            items.into_iter().partition(|item| found.contains_key(&item.index));
        self.wholes(&unlike)?;
        for item in like {
            let candidates = found.remove(&item.index).unwrap_or_default();
            match self.best_of(&item, candidates) {
                Some(old) => self.later(Job { item, old }, patched)?,
                None => self.whole(&item)?,
            }
        }
        Ok(())
    }

    /// What the new files may be like, by the number of their paths.
    fn candidates(&mut self, items: &[Item]) -> Result<HashMap<u64, Vec<Candidate>>, SyncError> {
        // Within one machine it is not worth reading files twice, nor where this end sends what did not
        // come out right.
        let is_local = !self.means.out.line.is_compressed();
        if is_local || self.means.singly || !self.applier.has_shared()? {
            return Ok(HashMap::new());
        }
        let mut left = LOOKED_AT;
        let mut wishes = Vec::new();
        for item in items.iter().filter(|item| (WORTH..=PATCH_MAX as u64).contains(&item.size)) {
            let Some(rest) = left.checked_sub(item.size) else { break };
            left = rest;
            // What cannot be read is told when it is sent.
            if let Ok(content) = whole::read_all(self.applier.root(), item) {
                let sketch = Sketch::of(&content);
                wishes.push(Wish { item, sketch, candidates: Vec::new() });
            }
        }
        if wishes.is_empty() {
            return Ok(HashMap::new());
        }
        let mut lookup = Lookup::of(&wishes);
        self.look_at_what_is_gone(&mut lookup, &mut wishes)?;
        self.look_at_files(&mut lookup, &mut wishes)?;
        let found = wishes.into_iter().filter(|wish| !wish.candidates.is_empty());
        Ok(found.map(|wish| (wish.item.index, wish.candidates)).collect())
    }

    /// What the peer has until the plan is carried out, and in its trash then.
    fn look_at_what_is_gone(
        &mut self,
        lookup: &mut Lookup,
        wishes: &mut [Wish<'_>],
    ) -> Result<(), SyncError> {
        let agreement = self.means.agreement;
        let me = self.applier.role();
        for (index, stand) in agreement.paths.iter().enumerate() {
            let changed = stand.of(me).is_some_and(|row| row.base.is_some())
                && !theirs_is_another(stand.of(me.other()));
            if !changed {
                continue;
            }
            let Some((_, Stored { row, .. })) = self.applier.source_of(index)? else { continue };
            let Some(base) = row.base else { continue };
            let (path, sketch) = (stand.path().as_bytes(), self.applier.sketch(&base));
            let likely = lookup.likely(path, sketch);
            if likely.is_empty() {
                continue;
            }
            let Some(old) = known(self.means.store.as_deref_mut(), &base) else { continue };
            for at in likely {
                wishes[at].look_at(path, old.len(), sketch, base, &|| Some(Place::Store));
            }
        }
        Ok(())
    }

    /// What stands on both sides.
    fn look_at_files(
        &mut self,
        lookup: &mut Lookup,
        wishes: &mut [Wish<'_>],
    ) -> Result<(), SyncError> {
        let paths = &self.means.agreement.paths;
        let other = self.applier.role().other();
        let their_key = self.applier.keys().theirs.clone();
        let applier = &*self.applier;
        let stands_there = |path: &RelPath, hash: &ContentHash| match paths.find(path) {
            // It has said nothing of it, or that it has the same.
            Some(at) => paths[at]
                .of(other)
                .is_none_or(|row| row.content.fingerprint() == Some(their_key.check(hash))),
            None => true,
        };
        applier.sketched_files(|path, size, hash, sketch| {
            for at in lookup.likely(path, sketch) {
                wishes[at].look_at(path, size, sketch, hash, &|| {
                    let path = RelPath::new(path).ok()?;
                    let is_there = applier.is_of_use(&path) && stands_there(&path, &hash);
                    is_there.then_some(Place::Tree(path))
                });
            }
        })?;
        Ok(())
    }

    /// The candidate of which most of the new file is copied, if that pays.
    fn best_of(&mut self, item: &Item, candidates: Vec<Candidate>) -> Option<Known> {
        let new = whole::read_all(self.applier.root(), item).ok()?;
        let mut best: Option<(usize, Vec<u8>, ContentHash)> = None;
        let part = |(numerator, denominator): (usize, usize)| new.len() / denominator * numerator;
        for candidate in candidates {
            let Some(old) = self.read_candidate(&candidate) else { continue };
            let copied = delta::copied(&old, &new);
            if copied > best.as_ref().map_or(part(COPIED), |(most, ..)| *most) {
                best = Some((copied, old, candidate.hash));
            }
            if copied > part(COPIED_WELL) {
                break;
            }
        }
        let (_, content, hash) = best?;
        let check: Check = self.applier.keys().ours.check(&hash);
        patches::fits(content.len() as u64, item.size).then_some(Known::Other(content, check))
    }

    fn read_candidate(&mut self, candidate: &Candidate) -> Option<Vec<u8>> {
        match &candidate.place {
            Place::Store => {
                known(self.means.store.as_deref_mut(), &candidate.hash)?.read_all().ok()
            }
            Place::Tree(path) => {
                let (_, stored) = self.applier.stored(path).ok()??;
                let item = Item::of(0, path.clone(), stored)?;
                let is_it = item.hash == candidate.hash;
                if is_it { whole::read_all(self.applier.root(), &item).ok() } else { None }
            }
        }
    }
}

/// Whether an end has said that it has something else than what was agreed.
fn theirs_is_another(row: Option<&psync_protocol::Row<Check>>) -> bool {
    row.is_some_and(|row| matches!(row.content, Content::File { .. }))
}

/// Finds the new files for which a path or a sketch may speak, so that not each has to be compared with
/// each.
struct Lookup {
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    by_stem: HashMap<Vec<u8>, Vec<usize>>,
    by_part: HashMap<u32, Vec<usize>>,
    /// So many may still be compared.
    looks: usize,
}

/// So many new files of one name are compared with each old one, at most.
const NAMESAKES: usize = 64;

impl Lookup {
    fn of(wishes: &[Wish<'_>]) -> Lookup {
        let (by_name, by_stem, by_part) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut lookup = Lookup { by_name, by_stem, by_part, looks: LOOKS };
        for (at, wish) in wishes.iter().enumerate() {
            let (_, name) = split(wish.item.at.as_bytes());
            lookup.by_name.entry(name.to_vec()).or_default().push(at);
            lookup.by_stem.entry(versionless(wish.item.at.as_bytes())).or_default().push(at);
            for part in wish.sketch.parts() {
                lookup.by_part.entry(part).or_default().push(at);
            }
        }
        lookup
    }

    /// The new files that may be like an old one. None any more where enough were compared.
    fn likely(&mut self, path: &[u8], sketch: Option<SketchBytes>) -> Vec<usize> {
        if self.looks == 0 {
            return Vec::new();
        }
        let (_, name) = split(path);
        let named = self.by_name.get(name).into_iter().flatten();
        let versions = self.by_stem.get(&versionless(path)).into_iter().flatten();
        let parts = sketch.into_iter().flat_map(|sketch| Sketch::from_bytes(sketch).parts());
        let sketched = parts.filter_map(|part| self.by_part.get(&part)).flatten();
        let mut likely: Vec<usize> =
            named.take(NAMESAKES).chain(versions.take(NAMESAKES)).copied().collect();
        likely.extend(sketched.take(NAMESAKES * NAMESAKES));
        likely.sort_unstable();
        likely.dedup();
        self.looks = self.looks.saturating_sub(likely.len());
        likely
    }
}

/// The path without what tells versions of a file in one directory apart.
fn versionless(path: &[u8]) -> Vec<u8> {
    let (dir, name) = split(path);
    dir.iter().copied().chain([b'/']).chain(stem(name)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sketches_speak_for_a_file_and_places_only_decide_between_such() {
        let score = |new: &str, old: &str, shared| score(new.as_bytes(), old.as_bytes(), shared);
        assert_eq!(score("a/one.txt", "a/two.txt", 0), 0);
        assert!(score("a/one.txt", "a/two.txt", 1) > 0);
        assert!(score("new/lib.rs", "old/lib.rs", 0) > 0);
        assert!(score("report-1.3.txt", "report-1.12.txt", 0) > 0);
        assert!(score("report (2).txt", "report.txt", 0) > 0);
        assert_eq!(score("a/report-2.txt", "b/report-1.txt", 0), 0);
        assert!(score("x/src/lib.rs", "y/src/lib.rs", 0) > score("x/src/lib.rs", "y/lib.rs", 0));
        assert!(score("a", "b", 3) > score("a", "x/a", 2));
    }

    #[test]
    fn so_many_are_compared_and_no_more() {
        let path = RelPath::new(b"new/name").unwrap();
        let stored = Stored::absent(path.clone());
        let item = Item { index: 0, at: path, stored, size: 1, hash: ContentHash([0; 32]) };
        let wish = || Wish { item: &item, sketch: Sketch::of(b""), candidates: Vec::new() };
        let mut lookup = Lookup::of(&[wish(), wish()]);
        lookup.looks = 3;
        let likely: Vec<usize> = (0..4).map(|_| lookup.likely(b"old/name", None).len()).collect();
        assert_eq!(likely, [2, 2, 0, 0]);
    }
}
