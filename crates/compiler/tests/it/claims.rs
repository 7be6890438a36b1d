//! Who gets a frontend that several Services claim.

use model::{Family, Update};

use crate::world::{OUTSIDE, POD, World, ip, options, service, slice};

const V4: Family = Family::V4;
const LB: &str = "5.6.7.8";
const EXTERNAL: &str = "192.168.99.22";

#[test]
fn the_older_service_owns_a_frontend_and_leaves_it_to_the_other() {
    let claimant = |name: &str, cluster_ip: &str, created| {
        let mut service = service(name, cluster_ip);
        service.external_ips = vec![ip(EXTERNAL)];
        service.created = created;
        Update::Service(service)
    };
    let old = claimant("z-old", "172.30.0.41", 1);
    let young = claimant("a-young", "172.30.0.42", 2);
    let ends = [slice("z-old", 80, &[("10.180.0.1", "")]), slice("a-young", 80, &[("10.180.0.2", "")])];
    for order in [[old.clone(), young.clone()], [young, old]] {
        let mut world = World::new(options(V4));
        for update in order {
            world.apply([update]);
        }
        world.apply(ends.clone());
        world.check(&[(OUTSIDE, EXTERNAL, 80, "10.180.0.1:80 masq"), (POD, "172.30.0.42", 80, "10.180.0.2:80")]);
        let conflicts: Vec<_> = world.compiler.conflicts().map(|conflict| conflict.to_string()).collect();
        assert_eq!(
            conflicts,
            ["192.168.99.22:80/tcp is claimed by ns/z-old:p80 and ns/a-young:p80: ns/z-old:p80 has it, because its \
              Service is older or named first"]
        );

        world.apply([Update::ServiceGone(model::ServiceName::new("ns", "z-old"))]);
        world.check(&[(OUTSIDE, EXTERNAL, 80, "10.180.0.2:80 masq"), (POD, "172.30.0.41", 80, "172.30.0.41:80")]);
        assert_eq!(world.compiler.conflicts().count(), 0);
    }
}

/// Whoever may write Services may make one early, and have it ask later for the addresses of others.
#[test]
fn an_external_ip_takes_no_address_that_the_cluster_gave_to_another() {
    let mut victim = service("victim", "172.30.0.41");
    victim.load_balancer_ips = vec![ip(LB)];
    victim.created = 2;
    let mut thief = service("a-thief", "172.30.0.42");
    thief.created = 1;
    let ends = [slice("victim", 80, &[("10.180.0.1", "")]), slice("a-thief", 80, &[("10.180.0.2", "")])];
    let mut world = World::new(options(V4)).with([Update::Service(victim.clone()), Update::Service(thief.clone())]);
    world.apply(ends);
    thief.external_ips = vec![ip("172.30.0.41"), ip(LB), ip(EXTERNAL)];
    world.apply([Update::Service(thief.clone())]);
    let is_safe = |world: &mut World| {
        world.check(&[
            (POD, "172.30.0.41", 80, "10.180.0.1:80"),
            (OUTSIDE, LB, 80, "10.180.0.1:80 masq"),
            (OUTSIDE, EXTERNAL, 80, "10.180.0.2:80 masq"),
        ]);
    };
    is_safe(&mut world);
    let conflicts: Vec<_> = world.compiler.conflicts().map(|conflict| conflict.to_string()).collect();
    assert_eq!(conflicts.len(), 2);
    assert!(
        conflicts[0].ends_with(
            "ns/victim:p80 has it, because a ClusterIP comes before an address of a load balancer, \
        and that before an external IP"
        ),
        "{conflicts:?}"
    );

    // Whoever asks for it first has it only until it is given to somebody.
    world.apply([Update::ServiceGone(victim.name.clone())]);
    world.check(&[(OUTSIDE, LB, 80, "10.180.0.2:80 masq")]);
    world.apply([Update::Service(victim)]);
    is_safe(&mut world);
    // To be given it by a controller is the same right as the other's, but not as the API server's.
    thief.load_balancer_ips = vec![ip(LB), ip("172.30.0.41")];
    world.apply([Update::Service(thief)]);
    world.check(&[(OUTSIDE, LB, 80, "10.180.0.2:80 masq"), (POD, "172.30.0.41", 80, "10.180.0.1:80")]);
}
