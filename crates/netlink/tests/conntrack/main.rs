//! Listing, counting and deleting entries of the kernel's conntrack.

#![allow(clippy::unwrap_used, reason = "tests")]

mod maker;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use netlink::{Conntrack, ConntrackError, Flow, Flows};
use ruleset::Family;
use testing::netns::Namespace;

use self::maker::{Entry, Maker, TCP, UDP, udp};

const UDP4: Flows = Flows { family: Family::Ip, protocol: UDP, offloaded: false };
const UDP6: Flows = Flows { family: Family::Ip6, protocol: UDP, offloaded: false };
const TCP4: Flows = Flows { family: Family::Ip, protocol: TCP, offloaded: false };

/// A namespace, its conntrack, and who fills that.
fn kernel(label: &str) -> Result<(Namespace, Conntrack, Maker)> {
    let namespace = Namespace::new(label)?;
    let conntrack = namespace.run(Conntrack::open)?;
    let maker = Maker::new(&namespace)?;
    Ok((namespace, conntrack, maker))
}

/// The flows that there are, as client, service and endpoint.
fn flows(conntrack: &mut Conntrack, which: Flows) -> Result<BTreeSet<(SocketAddr, SocketAddr, SocketAddr)>> {
    let mut all = BTreeSet::new();
    let tally = conntrack.count(which, |flow| {
        assert_eq!(flow.protocol, which.protocol);
        assert_eq!(flow.reply.destination, flow.original.source);
        all.insert((flow.original.source, flow.original.destination, flow.reply.source))
    })?;
    assert_eq!((tally.matched, tally.deleted, tally.complete), (all.len() as u64, 0, true));
    Ok(all)
}

fn told(entries: &[Entry]) -> BTreeSet<(SocketAddr, SocketAddr, SocketAddr)> {
    entries.iter().map(|entry| (entry.client, entry.service, entry.endpoint)).collect()
}

#[test]
fn what_matches_is_deleted_and_all_else_stays() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("matching")?;
    let stale = [
        udp("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353"),
        udp("192.0.2.1:40001", "10.96.0.10:53", "10.1.0.2:5353"),
        udp("192.0.2.2:40000", "10.96.0.10:53", "10.96.0.10:53"),
    ];
    let fine = [
        udp("192.0.2.1:40002", "10.96.0.10:53", "10.1.0.3:5353"),
        udp("192.0.2.1:40003", "10.96.0.10:54", "10.1.0.2:5353"),
        udp("192.0.2.1:40004", "10.96.0.11:53", "10.1.0.2:5353"),
    ];
    let tcp = Entry { protocol: TCP, ..stale[0] };
    let v6 = udp("[2001:db8::1]:40000", "[fd00::10]:53", "[fd00:1::2]:5353");
    maker.make(stale.iter().chain(&fine).chain([&tcp, &v6]).copied())?;

    let is_stale = |flow: &Flow| {
        flow.original.destination == "10.96.0.10:53".parse().unwrap()
            && flow.reply.source != "10.1.0.3:5353".parse().unwrap()
    };
    let counted = conntrack.count(UDP4, is_stale)?;
    assert_eq!((counted.listed, counted.matched, counted.deleted), (6, 3, 0));
    assert!(counted.complete && counted.refused.is_none());

    let tally = conntrack.delete(UDP4, is_stale)?;
    assert_eq!((tally.listed, tally.matched, tally.deleted), (6, 3, 3));
    assert!(tally.complete && tally.refused.is_none());
    assert_eq!(flows(&mut conntrack, UDP4)?, told(&fine));
    assert_eq!(flows(&mut conntrack, TCP4)?, told(&[tcp]), "another protocol");
    assert_eq!(flows(&mut conntrack, UDP6)?, told(&[v6]), "another family");

    let again = conntrack.delete(UDP4, is_stale)?;
    assert_eq!((again.listed, again.matched, again.deleted), (3, 0, 0));
    Ok(())
}

#[test]
fn of_ipv6_likewise() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("ipv6")?;
    let stale = udp("[2001:db8::1]:40000", "[fd00::10]:53", "[fd00:1::2]:5353");
    let fine = udp("[2001:db8::1]:40001", "[fd00::11]:53", "[fd00:1::2]:5353");
    let v4 = udp("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353");
    maker.make([stale, fine, v4])?;
    let tally = conntrack.delete(UDP6, |flow| flow.original.destination == stale.service)?;
    assert_eq!((tally.listed, tally.matched, tally.deleted), (2, 1, 1));
    assert_eq!(flows(&mut conntrack, UDP6)?, told(&[fine]));
    assert_eq!(flows(&mut conntrack, UDP4)?, told(&[v4]));
    Ok(())
}

/// Nothing deletes TCP entries yet, but it is the same.
#[test]
fn of_tcp_likewise() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("tcp")?;
    let udp = udp("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353");
    maker.make([udp, Entry { protocol: TCP, ..udp }])?;
    let tally = conntrack.delete(TCP4, |_| true)?;
    assert_eq!((tally.listed, tally.matched, tally.deleted), (1, 1, 1));
    assert_eq!(flows(&mut conntrack, UDP4)?, told(&[udp]));
    Ok(())
}

#[test]
fn entries_of_other_zones_stay() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("zones")?;
    let ours = udp("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353");
    let theirs = Entry { zone: 7, ..ours };
    maker.make([ours, theirs])?;
    let tally = conntrack.delete(UDP4, |_| true)?;
    assert_eq!((tally.matched, tally.deleted), (1, 1));
    // It can be deleted, so it was still there.
    maker.delete(theirs)?;
    maker.delete(ours).unwrap_err();
    Ok(())
}

/// The entry that was listed is gone by the time it is to be deleted, and another flow has the same addresses.
#[test]
fn a_successor_with_the_same_addresses_stays() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("reuse")?;
    let entry = udp("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353");
    let successor = Entry { endpoint: "10.1.0.3:5353".parse()?, ..entry };
    maker.make([entry])?;
    let tally = conntrack.delete(UDP4, |flow| {
        assert_eq!(flow.reply.source, entry.endpoint);
        maker.delete(entry).unwrap();
        // They take the memory that became free: the kernel tells entries apart by their place in it.
        maker.make((1..100).map(|n| Entry { client: SocketAddr::new(entry.client.ip(), n), ..entry })).unwrap();
        maker.make([successor]).unwrap();
        true
    })?;
    assert_eq!((tally.matched, tally.deleted), (1, 0));
    assert!(tally.refused.is_none(), "that it went by itself is as good");
    assert!(flows(&mut conntrack, UDP4)?.is_superset(&told(&[successor])));
    Ok(())
}

#[test]
fn what_went_by_itself_is_no_failure() -> Result<()> {
    let (_namespace, mut conntrack, maker) = kernel("gone")?;
    let entry = |n| udp(&format!("192.0.2.1:{n}"), "10.96.0.10:53", "10.1.0.2:5353");
    maker.make((1..=50).map(entry))?;
    let mut n = 0;
    let tally = conntrack.delete(UDP4, |flow| {
        n += 1;
        if n % 2 == 0 {
            maker.delete(entry(flow.original.source.port())).unwrap();
        }
        true
    })?;
    assert_eq!((tally.matched, tally.deleted), (50, 25));
    assert!(tally.complete && tally.refused.is_none());
    assert!(flows(&mut conntrack, UDP4)?.is_empty());
    Ok(())
}

/// However many there are, they pass through the same memory.
#[test]
fn fifty_thousand_entries_in_bounded_memory() -> Result<()> {
    const ENTRIES: u32 = 50_000;
    let (_namespace, mut conntrack, maker) = kernel("many")?;
    let entry = |n: u32| Entry {
        client: (std::net::Ipv4Addr::from(0x0a01_0000 + n / 1000), (1024 + n % 1000) as u16).into(),
        ..udp("192.0.2.1:1", "10.96.0.10:53", if n.is_multiple_of(2) { "10.1.0.2:5353" } else { "10.1.0.3:5353" })
    };
    maker.make((0..ENTRIES).map(entry))?;
    maker.make((0..ENTRIES).map(|n| Entry { protocol: TCP, ..entry(n) }))?;

    let before = peak_memory()?;
    let began = Instant::now();
    let counted = conntrack.count(UDP4, |_| true)?;
    let (counting, began) = (began.elapsed(), Instant::now());
    let tally = conntrack.delete(UDP4, |flow| flow.reply.source == entry(0).endpoint)?;
    let (half, began) = (began.elapsed(), Instant::now());
    conntrack.delete(UDP4, |_| true)?;
    let grown = peak_memory()?.saturating_sub(before);
    println!("counted in {counting:?}, half deleted in {half:?}, the rest in {:?}; {grown} KiB", began.elapsed());

    let (all, matching) = (u64::from(ENTRIES), u64::from(ENTRIES / 2));
    assert_eq!((counted.listed, counted.matched), (all, all), "the kernel lists UDP alone");
    assert_eq!((tally.listed, tally.matched, tally.deleted), (all, matching, matching));
    assert!(grown < 1024, "{grown} KiB");
    assert!(flows(&mut conntrack, UDP4)?.is_empty());
    assert_eq!(conntrack.count(TCP4, |_| true)?.matched, all);
    Ok(())
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Runs the next test in a process that may not ask.
#[test]
fn no_privilege() -> Result<()> {
    testing::deprived::run("in_a_process_without_privilege")
}

#[test]
#[ignore = "no_privilege runs it, as a process that has been deprived"]
fn in_a_process_without_privilege() {
    let error = Conntrack::open().err().unwrap();
    assert!(matches!(error, ConntrackError::NotPermitted), "{error}");
    assert!(error.to_string().contains("NET_ADMIN"));
}
