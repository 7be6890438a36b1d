//! Packets that take the slow path.

use testing::netns::Namespace;

/// Counts packets of a namespace that pass the hook `forward`, which is what the fast path is to avoid. In a table of its own, after
/// the filters of others.
pub(crate) struct Forwarded<'a>(&'a Namespace);

impl<'a> Forwarded<'a> {
    /// Begins to count.
    pub(crate) fn count(namespace: &'a Namespace) -> Self {
        let commands = ["table", "counter", "chain", "rule"];
        let objects = ["", "seen", "forward '{ type filter hook forward priority 200; }'", "forward counter name seen"];
        for (command, object) in commands.into_iter().zip(objects) {
            namespace.sh(&format!("nft add {command} inet forwarded {object}")).unwrap();
        }
        Self(namespace)
    }

    /// How many there were since the last time.
    pub(crate) fn take(&self) -> u64 {
        let told = self.0.sh("nft reset counter inet forwarded seen").unwrap();
        let (_, after) = told.split_once("packets ").unwrap();
        after.split_whitespace().next().unwrap().parse().unwrap()
    }
}
