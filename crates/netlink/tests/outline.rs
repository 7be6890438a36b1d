//! Rules of other programs, and what other ways to serve Services leave in the kernel.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use common::{kernel, name, nft, transaction};
use netlink::{IpSets, Jump, legacy_chains};
use ruleset::{Family, Kernel as _, Op};
use testing::netns::Namespace;

const TABLES: &str = "
table ip t {
    chain a { counter; }
    chain b { ip saddr 192.0.2.1 tcp dport 80 counter jump a; accept; }
    chain base { type filter hook input priority 0; counter goto b; tcp dport vmap { 1 : jump a }; drop; }
}
table ip other { chain a { }; chain c { jump a; }; }
table ip6 t { chain d { }; }";

/// The first rule of each of two chains leads to another; the one with a map does not by itself.
#[test]
fn rules_that_lead_elsewhere_are_told_and_deleted() -> Result<()> {
    let (namespace, mut kernel) = kernel("outline")?;
    nft(&namespace, "-f -", TABLES)?;
    assert_eq!(kernel.chains(Family::Ip, &name("t"))?, ["a", "b", "base"].map(name));
    let jumps = kernel.jumps(Family::Ip, &name("t"))?;
    let shown: Vec<_> = jumps.iter().map(|jump| format!("{} {}", jump.chain, jump.target)).collect();
    assert_eq!(shown, ["b a", "base b"]);
    assert_eq!(kernel.chains(Family::Ip6, &name("missing"))?, []);
    assert_eq!(kernel.jumps(Family::Ip6, &name("missing"))?, []);

    let Jump { chain, handle, .. } = jumps[0].clone();
    let deletion = transaction(Family::Ip, vec![Op::DeleteRule { chain, handle }]);
    kernel.commit(&deletion)?;
    let listed = nft(&namespace, "list chain ip t b", "")?;
    assert!(listed.contains("accept") && !listed.contains("jump"), "{listed}");
    let again = kernel.commit(&deletion).unwrap_err().to_string();
    assert!(again.contains(&format!("delete rule ip t b handle {handle}: No such file")), "{again}");
    Ok(())
}

#[test]
fn ipsets_are_listed_and_destroyed() -> Result<()> {
    let namespace = Namespace::new("ipsets")?;
    namespace.sh(
        "ipset create addresses hash:ip; ipset add addresses 192.0.2.1; ipset create ports bitmap:port range 0-65535
         ipset add ports 30080; ipset add ports 65535; ipset create both hash:ip,port; ipset add both 192.0.2.1,sctp:132",
    )?;
    let mut sets = namespace.run(IpSets::open)?.context("`ipset` has loaded it")?;
    assert_eq!(
        sets.names()?.into_iter().collect::<BTreeSet<_>>(),
        ["addresses", "both", "ports"].map(str::to_owned).into()
    );
    for (set, ports) in [("addresses", &[][..]), ("ports", &[30080, 65535]), ("both", &[132]), ("missing", &[])] {
        assert_eq!(sets.ports(set)?, ports.iter().copied().collect(), "{set}");
    }
    sets.destroy("both")?;
    sets.destroy("both").context("it has gone")?;
    assert_eq!(sets.names()?.len(), 2);
    Ok(())
}

#[test]
fn chains_of_iptables_legacy_are_told() -> Result<()> {
    let namespace = Namespace::new("legacy")?;
    let chains = |family| namespace.run(|| legacy_chains(family));
    assert_eq!(chains(Family::Ip)?, [""; 0]);
    namespace
        .sh("iptables-legacy -N one; iptables-legacy -A one -p tcp --dport 80 -m comment --comment three -j ACCEPT
         iptables-legacy -t nat -N two; iptables-legacy -t nat -A OUTPUT -j two; ip6tables-legacy -t mangle -N six")?;
    assert_eq!(chains(Family::Ip)?.into_iter().collect::<BTreeSet<_>>(), ["one", "two"].map(str::to_owned).into());
    assert_eq!(chains(Family::Ip6)?, ["six"]);
    Ok(())
}
