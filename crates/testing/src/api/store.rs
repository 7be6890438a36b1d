//! The objects, their history, and the watches on them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::select::Selector;
use super::{Resource, status};

/// A part of the body of a watch; an error cuts the connection.
pub(super) type Chunk = io::Result<Bytes>;

/// Namespace and name; the first is empty for objects without.
pub(super) type Key = (String, String);

type Objects = BTreeMap<(Resource, Key), Arc<Value>>;

/// Everything the server holds. All that watches get passes through here, so its order is that of the calls.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    /// Watches and list pages from before this version have expired.
    oldest: u64,
    objects: Objects,
    log: Vec<Change>,
    watches: Vec<Watch>,
    /// By how many changes lists and the beginnings of watches lag behind.
    pub(super) lag: u64,
}

#[derive(Clone, Debug)]
struct Change {
    version: u64,
    resource: Resource,
    key: Key,
    old: Option<Arc<Value>>,
    /// None: deleted.
    new: Option<Arc<Value>>,
}

#[derive(Debug)]
struct Watch {
    resource: Resource,
    selector: Selector,
    bookmarks: bool,
    sender: mpsc::UnboundedSender<Chunk>,
}

/// Where a watch begins.
pub(super) enum Start {
    /// With the objects that there are; if true, a bookmark tells their end (`sendInitialEvents`).
    Now(bool),
    /// With what happened after this version.
    After(u64),
}

/// One page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Arc<Value>>,
    /// Of the first page.
    pub(super) version: u64,
    /// The last object of the page, if there are more.
    pub(super) last: Option<Key>,
}

/// The version that was asked for is older than the oldest kept.
pub(super) struct TooOld {
    pub(super) oldest: u64,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn object(&self, resource: Resource, key: Key) -> Option<&Arc<Value>> {
        self.objects.get(&(resource, key))
    }

    /// What is in a namespace.
    pub(super) fn keys_in(&self, resource: Resource, namespace: &str) -> Vec<Key> {
        let keys = self.objects.keys().filter(|(of, (within, _))| *of == resource && within == namespace);
        keys.map(|(_, key)| key.clone()).collect()
    }

    /// Creates or replaces an object, which gets the next version if it has metadata to put it in.
    pub(super) fn put(&mut self, resource: Resource, key: Key, mut object: Value) {
        self.version += 1;
        set_version(&mut object, self.version);
        let object = Arc::new(object);
        let old = self.objects.insert((resource, key.clone()), object.clone());
        self.publish(Change { version: self.version, resource, key, old, new: Some(object) });
    }

    /// Whether there was such an object.
    pub(super) fn delete(&mut self, resource: Resource, key: Key) -> bool {
        let Some(old) = self.objects.remove(&(resource, key.clone())) else {
            return false;
        };
        self.version += 1;
        self.publish(Change { version: self.version, resource, key, old: Some(old), new: None });
        true
    }

    /// Objects after `after` (all, if None), at most `limit`. `version` is that of the first page; later pages show
    /// objects as they are now, which a watch from that version puts right.
    pub(super) fn list(
        &self,
        resource: Resource,
        selector: &Selector,
        limit: Option<usize>,
        after: Option<(u64, Key)>,
    ) -> Result<Page, TooOld> {
        let (now, objects) = self.as_of_lag();
        let version = after.as_ref().map_or(now, |(version, _)| *version);
        if after.is_some() && version < self.oldest {
            return Err(TooOld { oldest: self.oldest });
        }
        let wanted =
            |(of, key): &(Resource, Key)| *of == resource && after.as_ref().is_none_or(|(_, after)| key > after);
        let mut rest = objects.iter().filter(|(id, object)| wanted(id) && selector.matches(object)).peekable();
        let (mut items, mut last) = (Vec::new(), None);
        while let Some(((_, key), object)) = rest.next() {
            items.push(object.clone());
            if Some(items.len()) == limit && rest.peek().is_some() {
                last = Some(key.clone());
                break;
            }
        }
        Ok(Page { items, version, last })
    }

    /// The version that lists are of, and the objects of that time.
    fn as_of_lag(&self) -> (u64, Cow<'_, Objects>) {
        if self.lag == 0 {
            return (self.version, Cow::Borrowed(&self.objects));
        }
        let version = self.version.saturating_sub(self.lag).max(self.oldest);
        let mut objects = self.objects.clone();
        for Change { resource, key, old, .. } in self.log.iter().rev().take_while(|change| change.version > version) {
            let id = (*resource, key.clone());
            match old {
                Some(old) => objects.insert(id, old.clone()),
                None => objects.remove(&id),
            };
        }
        (version, Cow::Owned(objects))
    }

    /// Opens a watch. What it missed is sent at once.
    pub(super) fn watch(
        &mut self,
        resource: Resource,
        selector: Selector,
        start: Start,
        bookmarks: bool,
    ) -> Result<mpsc::UnboundedReceiver<Chunk>, TooOld> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch { resource, selector, bookmarks, sender };
        match start {
            Start::Now(tell_end) => {
                let objects = self.objects.iter().filter(|((of, _), _)| *of == resource);
                for (_, object) in objects.filter(|(_, object)| watch.selector.matches(object)) {
                    watch.send(&json!({"type": "ADDED", "object": **object}));
                }
                if tell_end {
                    watch.send(&bookmark(resource, self.version, true));
                }
            }
            Start::After(version) if version < self.oldest => return Err(TooOld { oldest: self.oldest }),
            Start::After(version) => {
                let version = version.saturating_sub(self.lag);
                self.log.iter().filter(|change| change.version > version).for_each(|change| watch.tell(change));
            }
        }
        self.watches.push(watch);
        Ok(receiver)
    }

    /// How many watches on a resource are open.
    pub(super) fn watch_count(&mut self, resource: Resource) -> usize {
        self.watches.retain(|watch| !watch.sender.is_closed());
        self.watches.iter().filter(|watch| watch.resource == resource).count()
    }

    /// Forgets what happened so far: watches have to begin at the current version or later.
    pub(super) fn compact(&mut self) {
        self.oldest = self.version;
        self.log.clear();
    }

    /// Sends bookmarks to the watches that asked for them.
    pub(super) fn bookmark(&self) {
        for watch in self.watches.iter().filter(|watch| watch.bookmarks) {
            watch.send(&bookmark(watch.resource, self.version, false));
        }
    }

    /// Sends a line of any content to the watches on a resource.
    pub(super) fn send_line(&self, resource: Resource, line: &str) {
        for watch in self.watches.iter().filter(|watch| watch.resource == resource) {
            watch.send_text(format!("{line}\n"));
        }
    }

    /// Ends all watches, in the middle of a line and of the HTTP body.
    pub(super) fn break_watches(&mut self) {
        for watch in self.watches.drain(..) {
            watch.send_text(r#"{"type":"MODIFIED","object":{"kind":"#.to_owned());
            watch.sender.send(Err(io::ErrorKind::ConnectionReset.into())).ok();
        }
    }

    /// Ends all watches with the event that their version has expired.
    pub(super) fn expire_watches(&mut self) {
        let event = too_old_event(0, self.version);
        self.watches.drain(..).for_each(|watch| watch.send(&event));
    }

    /// Ends all watches as their time-out does.
    pub(super) fn end_watches(&mut self) {
        self.watches.clear();
    }

    fn publish(&mut self, change: Change) {
        self.watches.retain(|watch| !watch.sender.is_closed());
        self.watches.iter().for_each(|watch| watch.tell(&change));
        self.log.push(change);
    }
}

impl Watch {
    /// Sends a change as this watch sees it: an object that begins or ceases to match comes or goes.
    fn tell(&self, change: &Change) {
        let seen = |object: &Option<Arc<Value>>| object.as_ref().filter(|o| self.selector.matches(o)).cloned();
        let (kind, object) = match (seen(&change.old), seen(&change.new)) {
            _ if change.resource != self.resource => return,
            (None, None) => return,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
        };
        let mut object = Value::clone(&object);
        set_version(&mut object, change.version);
        self.send(&json!({"type": kind, "object": object}));
    }

    fn send(&self, event: &Value) {
        self.send_text(format!("{event}\n"));
    }

    fn send_text(&self, text: String) {
        // The other end may have hung up.
        self.sender.send(Ok(text.into())).ok();
    }
}

/// The event that ends a watch whose version has expired.
pub(super) fn too_old_event(version: u64, oldest: u64) -> Value {
    json!({"type": "ERROR", "object": status::too_old(version, oldest).body()})
}

fn bookmark(resource: Resource, version: u64, initial_events_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = json!({"kind": resource.kind(), "apiVersion": resource.api_version(), "metadata": metadata});
    json!({"type": "BOOKMARK", "object": object})
}

fn set_version(object: &mut Value, version: u64) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    }
}
