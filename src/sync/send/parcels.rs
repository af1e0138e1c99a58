//! Files that go whole: on a fast line as they are packed for the store, if that is being filled, else as they
//! are read.

use std::collections::HashSet;

use psync_protocol::message::{Base, PATCH_BYTES, Patched, Patches};
use psync_protocol::{Message, RelPath};

use super::{Item, Means, Sending, SyncError};
use crate::delta;
use crate::sync::remember::{Parcel, Parcels};

impl Sending<'_, '_, '_> {
    /// Sends files whole, in this order.
    pub(super) fn wholes(&mut self, items: &[Item]) -> Result<(), SyncError> {
        if self.may_pack() {
            self.means.out.line.may_pack();
        }
        let mut parcels = None;
        for (at, item) in items.iter().enumerate() {
            let packs = self.may_pack() && self.means.out.line.is_fast();
            if packs && parcels.is_none() {
                parcels = self.start_packing(&items[at..]);
            } else if !packs {
                parcels = None;
            }
            match parcels.as_mut().and_then(Parcels::next) {
                Some(parcel) => self.parcel(item, parcel)?,
                None => self.whole(item)?,
            }
        }
        Ok(())
    }

    fn may_pack(&self) -> bool {
        let Means { out, singly, filling, .. } = &self.means;
        filling.is_some() && !singly && out.rehearsal.is_none()
    }

    fn start_packing(&self, items: &[Item]) -> Option<Parcels> {
        let filling = self.means.filling?;
        let paths: HashSet<&RelPath> = items.iter().map(|item| &item.at).collect();
        filling.keep_if(|path| !paths.contains(path));
        let files = items.iter().map(Item::as_shared).collect();
        Parcels::start(self.applier.root(), files, filling)
    }

    fn parcel(&mut self, item: &Item, parcel: Parcel) -> Result<(), SyncError> {
        let len = usize::try_from(item.size).unwrap_or(usize::MAX);
        let patch = parcel.packed().chunk().and_then(|chunk| delta::patch_of_packed(chunk, len));
        let Some(patch) = patch.filter(|patch| patch.len() <= PATCH_BYTES) else {
            return self.whole(item);
        };
        let saved = (len - patch.len().min(len)) as u64;
        let contents = vec![Patched { index: item.index, base: Base::Nothing }];
        self.means.out.send(&Message::Patches(Patches { contents, patch }))?;
        self.means.out.line.stands_for(saved);
        self.means.report.progress(&item.at, item.size);
        if let (Parcel::New(ready), Some(filling)) = (parcel, self.means.filling) {
            filling.add_packed(item.as_shared(), ready);
        }
        self.has_no_proof(item);
        if self.must_prove() { self.prove() } else { Ok(()) }
    }
}
