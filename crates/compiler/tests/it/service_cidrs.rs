//! Addresses kept for ClusterIPs that are none (contract §5.4).

use model::{Family, ServiceCidr, Update};
use ruleset::Op;

use crate::world::{NODE, OUTSIDE, POD, World, options, service, slice};

fn cidr(name: &str, prefixes: &[&str]) -> Update {
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Update::ServiceCidr(ServiceCidr { name: name.into(), prefixes })
}

fn world() -> World {
    World::new(options(Family::V4))
        .with([Update::Service(service("web", "172.30.0.41")), slice("web", 80, &[("10.180.0.1", "")])])
}

/// kube-proxy waits for its next full sync, an hour or so.
#[test]
fn a_change_is_effective_at_once() {
    let mut world = world();
    world.check(&[(POD, "172.30.0.99", 80, "172.30.0.99:80")]);
    let written = world.apply([cidr("main", &["172.30.0.0/16", "fd00:30::/112"])]);
    assert!(written.ops.iter().all(|op| matches!(op, Op::FlushChain(_) | Op::AddRule(_))), "{written}");
    let dropped =
        [(POD, "172.30.0.99", 80, "drop"), (NODE[0], "172.30.0.99", 80, "drop"), (OUTSIDE, "172.30.0.99", 80, "drop")];
    world.check(&dropped);
    world.check(&[
        (POD, "172.30.0.41", 80, "10.180.0.1:80"),
        (POD, "172.30.0.41", 81, "reject"),
        (POD, "172.31.0.99", 80, "172.31.0.99:80"),
    ]);
    world.apply([cidr("more", &["172.31.0.0/16"])]);
    world.check(&[(POD, "172.31.0.99", 80, "drop"), (POD, "172.30.0.99", 80, "drop")]);
    world.apply([Update::ServiceCidrGone("main".into())]);
    world.check(&[(POD, "172.31.0.99", 80, "drop"), (POD, "172.30.0.99", 80, "172.30.0.99:80")]);
}

#[test]
fn another_family_is_none_of_our_business() {
    let mut world = world();
    assert!(world.apply([cidr("six", &["fd00:30::/112"])]).is_empty());
}
