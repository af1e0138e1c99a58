//! Files that go whole: on a fast line as they are packed for the store, if that is being filled, else as they
//! are read.

use std::collections::HashSet;

use psync_protocol::message::{Base, PATCH_BYTES, Patched, Patches};
use psync_protocol::{Message, RelPath};

use super::{Item, Sending, SyncError};
use crate::delta;
use crate::sync::remember::{Files, Parcel, Parcels};
use crate::transport::Less;

impl Sending<'_, '_, '_> {
    /// Sends files whole, in this order.
    pub(super) fn wholes(&mut self, items: &[Item]) -> Result<(), SyncError> {
        let Some(filling) = self.means.filling.filter(|_| !self.means.singly) else {
            self.means.out.line.may_do(Some(Less::AsTheyAre));
            items.iter().try_for_each(|item| self.whole(item))?;
            self.means.out.line.may_do(None);
            return Ok(());
        };
        self.means.out.line.may_do(Some(Less::Packed));
        let (mut parcels, mut can_pack) = (None, true);
        for (at, item) in items.iter().enumerate() {
            let packs = can_pack && self.means.out.line.is_fast();
            if packs && parcels.is_none() {
                parcels = self.start_packing(&items[at..], filling);
                can_pack = parcels.is_some();
            } else if !packs && parcels.take().is_some() {
                // Somebody else has time for them now.
                filling.add(items[at..].iter().map(Item::as_shared));
            }
            match parcels.as_mut().and_then(Parcels::next) {
                Some(parcel) => self.parcel(item, parcel, filling)?,
                None => self.whole(item)?,
            }
        }
        self.means.out.line.may_do(None);
        Ok(())
    }

    fn start_packing(&self, items: &[Item], filling: &Files) -> Option<Parcels> {
        let files = items.iter().map(Item::as_shared).collect();
        let parcels = Parcels::start(self.applier.root(), files, filling)?;
        let paths: HashSet<&RelPath> = items.iter().map(|item| &item.at).collect();
        filling.keep_if(|path| !paths.contains(path));
        Some(parcels)
    }

    fn parcel(&mut self, item: &Item, parcel: Parcel, filling: &Files) -> Result<(), SyncError> {
        let len = usize::try_from(item.size).unwrap_or(usize::MAX);
        let patch = parcel.packed().chunk().and_then(|chunk| delta::patch_of_packed(chunk, len));
        if let Parcel::New(ready) = parcel {
            filling.add_packed(item.as_shared(), ready);
        }
        let Some(patch) = patch.filter(|patch| patch.len() <= PATCH_BYTES) else {
            return self.whole(item);
        };
        let saved = (len - patch.len().min(len)) as u64;
        let contents = vec![Patched { index: item.index, base: Base::Nothing }];
        self.means.out.send(&Message::Patches(Patches { contents, patch }))?;
        self.means.out.line.stands_for(saved);
        self.means.report.progress(&item.at, item.size);
        self.has_no_proof(item);
        if self.must_prove() { self.prove() } else { Ok(()) }
    }
}
