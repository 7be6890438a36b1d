//! The fast path beside the Services' part of the table.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use compiler::FastPath;
use model::{Family, Update};
use ruleset::{DeviceChanges, FakeTable, Interface, Kernel as _, Name, Op, reconcile};

use crate::world::{World, options, service, slice};

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn device(number: u32) -> Interface {
    Interface::named(&format!("veth{number}")).unwrap()
}

fn devices(numbers: std::ops::Range<u32>) -> BTreeMap<NonZeroU32, Interface> {
    numbers.map(|n| (number(n), device(n))).collect()
}

/// How many devices the flowtable has, and how many the rules know.
fn counts(table: &FakeTable) -> (usize, usize) {
    (table.flowtables()[&FastPath::flowtable()].len(), table.sets()["fastpath-devices"].elements.len())
}

/// It comes, changes and goes in transactions of its own, and the Services' part neither changes by it nor looks at it.
#[test]
fn it_comes_changes_and_goes_without_a_trace() {
    for all_frontends in [false, true] {
        let mut world = World::new(options(Family::V4))
            .with([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &[])]);
        let before = world.table().clone();
        let fast_path = FastPath { family: Family::V4, threshold: number(20), all_frontends, dry_run: false };
        // Again and again, also where it is already.
        for count in [3, 1, 300] {
            let replaces = world.table().flowtables().contains_key(&FastPath::flowtable());
            world.commit(&fast_path.declare(&devices(1..1 + count), replaces));
            assert_eq!(counts(world.table()), (count as usize, count as usize));
        }
        let named = |op: &Op| if let Op::AddFlowtable { devices, .. } = op { devices.len() } else { 0 };
        let most = fast_path.declare(&devices(1..301), true).ops.iter().map(named).max();
        assert_eq!(most, Some(255), "more are refused");
        let changes = DeviceChanges {
            attach: vec![device(400)],
            detach: (1..291).map(device).collect(),
            admit: vec![number(400)],
            dismiss: (1..291).map(number).collect(),
        };
        world.commit(&fast_path.change_devices(&changes));
        assert_eq!(counts(world.table()), (11, 11));

        let (family, name) = world.compiler.table();
        let mut found = world.kernel.read(family, &name).unwrap().unwrap();
        FastPath::leave_out(&mut found);
        let found = Arc::new(found);
        world.compiler.adopt(Arc::clone(&found));
        let full = world.compiler.compile_all(&world.state);
        let reconciliation = reconcile(full, Some(found), &world.kernel);
        assert!(reconciliation.transaction.is_empty(), "{}", reconciliation.transaction);
        assert_eq!(reconciliation.unwanted, [] as [Name; 0]);

        world.commit(&FastPath::remove(Family::V4));
        assert!(*world.table() == before, "something is left");
    }
}
