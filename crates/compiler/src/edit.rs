//! Element changes of one sync, grouped by set as the kernel takes them fastest.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ruleset::{Data, Element, Op, Words};

use crate::Frontend;
use crate::layout::Layout;
use crate::sets::SetId;

/// Elements to delete and to add.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    deletes: BTreeMap<SetId, Vec<Element>>,
    adds: BTreeMap<SetId, Vec<Element>>,
    /// How many elements are added.
    added: usize,
}

impl Edit {
    /// Deletes the element with this key.
    pub(crate) fn delete(&mut self, set: SetId, key: Words) {
        self.deletes.entry(set).or_default().push(Element { key, data: Data::None, comment: None });
    }

    /// The operations that delete what is to be deleted.
    pub(crate) fn deletions(&mut self, layout: &Layout) -> Vec<Op> {
        let deletes = std::mem::take(&mut self.deletes).into_iter();
        deletes.map(|(id, elements)| Op::DeleteElements { set: layout.set(id), elements }).collect()
    }

    /// The operations that add what is to be added.
    pub(crate) fn additions(self, layout: &Layout) -> impl Iterator<Item = Op> {
        self.adds.into_iter().map(|(id, elements)| Op::AddElements { set: layout.set(id), elements })
    }

    /// How many elements are added.
    pub(crate) const fn added(&self) -> usize {
        self.added
    }

    /// Adds an element.
    pub(crate) fn add(&mut self, set: SetId, element: Element) {
        self.added += 1;
        self.adds.entry(set).or_default().push(element);
    }

    /// Deletes and adds elements that have nothing but a key.
    pub(crate) fn replace_keys(
        &mut self,
        set: SetId,
        old: impl Iterator<Item = Words>,
        new: impl Iterator<Item = Words>,
    ) {
        old.for_each(|key| self.delete(set, key));
        new.for_each(|key| self.add(set, Element { key, data: Data::None, comment: None }));
    }

    /// Replaces the numbered endpoints of a frontend, touching only numbers whose endpoint is another one.
    pub(crate) fn replace_endpoints(&mut self, set: SetId, frontend: Frontend, old: &[SocketAddr], new: &[SocketAddr]) {
        for index in 0..old.len().max(new.len()) {
            let (from, to) = (old.get(index), new.get(index));
            if from == to {
                continue;
            }
            let key = frontend.slot_key(index);
            if from.is_some() {
                self.delete(set, key);
            }
            if let Some(to) = to {
                let data = Words::build().address(to.ip()).port(to.port()).datum();
                self.add(set, Element { key, data: Data::Value(data), comment: None });
            }
        }
    }
}
