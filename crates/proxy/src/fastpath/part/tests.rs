//! Devices that are gone, or others, when the kernel is told of them. Only here can they go at exactly that moment.

use std::cell::RefCell;

use compiler::Compiler;
use ifsync::{Links, Policy};
use model::State;
use testing::netns::Namespace;

use super::*;
use crate::fastpath::selftest::options;

const SYNCS: &str = "kubeproxy_fastpath_interface_syncs_total";

/// A node with devices, an empty table, and the fast path of a family.
struct Node<'a> {
    namespace: &'a Namespace,
    /// Where the other ends of its cables are.
    beyond: &'a Namespace,
    kernel: NfTables,
    part: Part,
    metrics: Metrics,
    links: Links,
}

impl<'a> Node<'a> {
    /// In the first of the namespaces, in which the caller has to be.
    fn new([namespace, beyond]: &'a [Namespace; 2], family: Family) -> Self {
        let mut kernel = NfTables::open().unwrap();
        kernel.commit(&Compiler::new(options(family)).compile_all(&State::new(std::time::UNIX_EPOCH))).unwrap();
        let threshold = 20.try_into().unwrap();
        let mut part = Part::new(FastPath { family, threshold, all_frontends: false, dry_run: false });
        part.table_written();
        Self { namespace, beyond, kernel, part, metrics: Metrics::new().unwrap(), links: Links::open().unwrap() }
    }

    fn add(&self, names: &[&str]) {
        for name in names {
            self.namespace.link(name, self.beyond, name).unwrap();
        }
    }

    /// Syncs, and has a shell do the first of these things after the links were listed for the first time, and so on.
    async fn sync(&mut self, meanwhile: &[&str]) -> Result<bool> {
        let meanwhile = RefCell::new(meanwhile.iter());
        let list = async || {
            let members = Members::of(&self.links.list().await?, &Policy::default());
            if let Some(command) = meanwhile.borrow_mut().next() {
                self.namespace.sh(command)?;
            }
            Ok(members)
        };
        let synced = self.part.sync(&mut self.kernel, list).await;
        match &synced {
            Ok(synced) => synced.report(self.part.family(), Duration::ZERO, &self.metrics),
            Err(error) => self.part.report_failure(error, Duration::ZERO, &self.metrics),
        }
        assert_eq!(meanwhile.borrow().len(), 0, "all of it happened");
        synced.map(|synced| synced.changed)
    }

    /// The devices of the flowtable, and how many syncs ended how.
    fn state(&mut self) -> (String, String) {
        let found = self.part.flowtable(&mut self.kernel).unwrap().unwrap();
        let devices = found.devices.into_iter().collect::<Vec<_>>().join(" ");
        let metrics = self.metrics.render();
        let syncs = metrics
            .lines()
            .filter_map(|line| line.strip_prefix(SYNCS)?.strip_prefix("{result=\""))
            .map(|line| line.replace("\"}", ""));
        (devices, syncs.collect::<Vec<_>>().join(", "))
    }
}

/// Runs a test for each family, on a node of its own.
fn on_nodes(test: impl AsyncFn(Node<'_>) + Sync) {
    for family in Family::ALL {
        let namespaces = ["node", "beyond"].map(|label| Namespace::new(label).unwrap());
        namespaces[0].run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { test(Node::new(&namespaces, family)).await });
        });
    }
}

#[test]
#[ignore = "takes a kernel with flowtables: `make fastpath` runs it"]
fn devices_that_go_before_the_kernel_is_told_cost_only_themselves() {
    on_nodes(async |mut node| {
        let state = |devices: &str, syncs: &str| (devices.to_owned(), syncs.to_owned());
        node.add(&["p1", "p2", "p3", "p4"]);
        assert!(node.sync(&["ip link delete p1", "ip link delete p2"]).await.unwrap(), "declared without them");
        assert_eq!(node.state(), state("p3 p4", "raced 2, success 1"));
        node.add(&["p5", "p6"]);
        assert!(node.sync(&["ip link delete p5"]).await.unwrap(), "changed without it");
        assert_eq!(node.state(), state("p3 p4 p6", "raced 3, success 2"));
        assert!(!node.sync(&[]).await.unwrap(), "there is nothing left to do");

        node.add(&["p7", "p8", "p9", "p10", "p11", "p12"]);
        let deletions = ["p7", "p8", "p9", "p10", "p11"].map(|device| format!("ip link delete {device}"));
        let error = node.sync(&deletions.each_ref().map(String::as_str)).await.unwrap_err();
        assert!(is_race(&error), "{error:#}");
        assert_eq!(node.state(), state("p3 p4 p6", "error 1, raced 3, success 2"));
        assert!(node.sync(&[]).await.unwrap(), "in order again as soon as they stay");
        assert_eq!(node.state(), state("p12 p3 p4 p6", "error 1, raced 3, success 3"));
    });
}

#[test]
#[ignore = "takes a kernel with flowtables: `make fastpath` runs it"]
fn another_device_under_the_same_name_takes_part_with_the_next_sync() {
    on_nodes(async |mut node| {
        node.add(&["p1"]);
        assert!(node.sync(&[]).await.unwrap());
        node.add(&["p2"]);
        let replace =
            "ip link delete p2 && ip link add p2 type veth peer name p3 && ip link set p2 up && ip link set p3 up";
        assert!(node.sync(&[replace]).await.unwrap());
        assert_eq!(node.state().0, "p1 p2");
        assert!(node.sync(&[]).await.unwrap(), "its number is another");
        assert!(!node.sync(&[]).await.unwrap());
        assert_eq!(node.state(), ("p1 p2 p3".to_owned(), "success 3".to_owned()));
    });
}

/// The kernel does not change the priority of a flowtable.
#[test]
#[ignore = "takes a kernel with flowtables: `make fastpath` runs it"]
fn the_flowtable_of_another_version_is_replaced() {
    on_nodes(async |mut node| {
        node.add(&["p1"]);
        let family = if node.part.family() == Family::V4 { "ip" } else { "ip6" };
        let other = format!(
            "nft 'add flowtable {family} kube-proxy fastpath {{ hook ingress priority 77; devices = {{ lo }}; }}'"
        );
        node.namespace.sh(&other).unwrap();
        assert!(node.sync(&[]).await.unwrap());
        assert_eq!(node.state().0, "p1");
        assert!(!node.namespace.sh("nft list flowtables").unwrap().contains("priority 77"));
    });
}
