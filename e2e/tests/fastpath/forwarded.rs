//! Packets that take the slow path.

use std::cell::Cell;

use testing::netns::Namespace;

/// Counts packets of a namespace that pass the hook `forward`, which is what the fast path is to avoid. In a table of its own, after
/// the filters of others.
pub(crate) struct Forwarded<'a> {
    namespace: &'a Namespace,
    seen: Cell<u64>,
}

impl<'a> Forwarded<'a> {
    /// Begins to count.
    pub(crate) fn count(namespace: &'a Namespace) -> Self {
        let commands = ["table", "counter", "chain", "rule"];
        let objects = ["", "seen", "forward '{ type filter hook forward priority 200; }'", "forward counter name seen"];
        for (command, object) in commands.into_iter().zip(objects) {
            namespace.sh(&format!("nft add {command} inet forwarded {object}")).unwrap();
        }
        Self { namespace, seen: Cell::new(0) }
    }

    /// How many there were since the last time.
    pub(crate) fn take(&self) -> u64 {
        let told = loop {
            match self.namespace.sh("nft list counter inet forwarded seen") {
                Ok(told) => break told,
                // Someone committed something meanwhile.
                Err(error) => assert!(error.to_string().contains("Interrupted system call"), "{error:#}"),
            }
        };
        let (_, after) = told.split_once("packets ").unwrap();
        let seen: u64 = after.split_whitespace().next().unwrap().parse().unwrap();
        seen - self.seen.replace(seen)
    }
}
