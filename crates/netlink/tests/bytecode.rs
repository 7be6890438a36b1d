//! What we write is what `nft` itself writes for the same text.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;

use anyhow::Result;
use common::{add, chain, delete, kernel, name, nft, reads_back, transaction};
use ruleset::{
    Chain, ChainKind, Comment, Comparison, Data, DataType, Element, Family, Field, Hook, HookPoint, Interface,
    Kernel as _, Op, Rule, Selector, Set, SetKind, Statement, Table, Transaction, Verdict, Words,
};
use testing::netns::Namespace;

#[test]
fn every_kind_of_object_in_ipv4() -> Result<()> {
    same_as_nft(Family::Ip)
}

#[test]
fn every_kind_of_object_in_ipv6() -> Result<()> {
    same_as_nft(Family::Ip6)
}

fn same_as_nft(family: Family) -> Result<()> {
    let transaction = everything(family);
    let (ours, mut kernel) = kernel("ours")?;
    kernel.commit(&transaction)?;
    reads_back(&mut kernel, &transaction)?;

    let theirs = Namespace::new("theirs")?;
    nft(&theirs, "-f -", &transaction.to_string())?;

    let list = format!("list table {family} t");
    let listing = nft(&ours, &list, "")?;
    assert_eq!(listing, nft(&theirs, &list, "")?);
    let bytecode = format!("--debug=netlink {list}");
    assert_eq!(without_handles(&nft(&ours, &bytecode, "")?), without_handles(&nft(&theirs, &bytecode, "")?));
    for op in &transaction.ops {
        if let Op::AddRule(rule) = op {
            let line = format!("\t\t{}\n", without_whole_masks(&rule.display(family).to_string()));
            assert!(listing.contains(&line), "no {line} in {listing}");
        }
    }
    let ruleset = nft(&ours, "list ruleset", "")?;
    // Not on top of what is there: nft 1.0.6 cannot use a `typeof` map that the kernel already has, not even its own.
    nft(&ours, "-c -f -", &format!("flush ruleset\n{ruleset}"))?;
    Ok(())
}

#[test]
fn each_kind_of_deletion() -> Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        let (namespace, mut kernel) = kernel("deletions")?;
        let everything = everything(family);
        kernel.commit(&everything)?;
        let sets = sets(family);

        // Elements of each type of key.
        let deletions = everything.ops.iter().filter_map(|op| match op {
            Op::AddElements { set, elements } => Some(delete(set, elements.clone())),
            _ => None,
        });
        kernel.commit(&transaction(family, deletions.collect()))?;
        assert!(!nft(&namespace, "list ruleset", "")?.contains("elements"));

        let elements = everything.ops.iter().filter(|op| matches!(op, Op::AddElements { .. }));
        kernel.commit(&transaction(family, elements.cloned().collect()))?;
        let flush = sets.iter().map(|(set, _)| Op::FlushSet(Arc::clone(set)));
        kernel.commit(&transaction(family, flush.collect()))?;
        assert!(!nft(&namespace, "list ruleset", "")?.contains("elements"));

        let ops = vec![Op::FlushChain(name("rules")), Op::DeleteChain(name("rules")), Op::DeleteChain(name("lb/2"))];
        kernel.commit(&transaction(family, ops))?;
        let listing = nft(&namespace, "list ruleset", "")?;
        assert!(!listing.contains("chain rules") && !listing.contains("lb/2"), "{listing}");

        kernel.commit(&transaction(family, vec![Op::DeleteTable]))?;
        assert_eq!(nft(&namespace, "list ruleset", "")?, "");
    }
    Ok(())
}

/// Adding what is there changes nothing.
#[test]
fn a_second_time() -> Result<()> {
    let (namespace, mut kernel) = kernel("again")?;
    let mut transaction = everything(Family::Ip);
    kernel.commit(&transaction)?;
    let before = nft(&namespace, "list ruleset", "")?;
    transaction.ops.retain(|op| !matches!(op, Op::AddRule(_)));
    kernel.commit(&transaction)?;
    assert_eq!(nft(&namespace, "list ruleset", "")?, before);
    Ok(())
}

/// An operation on no elements must not reach the kernel, which would take it for one on all.
#[test]
fn no_elements() -> Result<()> {
    let (namespace, mut kernel) = kernel("none")?;
    kernel.commit(&everything(Family::Ip))?;
    let before = nft(&namespace, "list ruleset", "")?;
    let nothing = sets(Family::Ip).into_iter().map(|(set, _)| delete(&set, vec![]));
    let report = kernel.commit(&transaction(Family::Ip, nothing.collect()))?;
    assert_eq!(report.bytes, 0);
    assert_eq!(nft(&namespace, "list ruleset", "")?, before);
    Ok(())
}

/// The listing of bytecode without the numbers that the kernel gave to rules: `ip t rules 12 11`.
fn without_handles(listing: &str) -> String {
    let lines = listing.lines().map(|line| {
        if line.starts_with("ip") { line.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ') } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The rule as `nft` lists it: a mask of all bits, which it does compile, is left out.
fn without_whole_masks(rule: &str) -> String {
    rule.replace(" & 255.255.255.255", "").replace(" & ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "")
}

fn comment(text: &str) -> Option<Comment> {
    Some(Comment::new(text))
}

/// One of each kind of object, with comments where there can be.
fn everything(family: Family) -> Transaction {
    let mut ops = vec![Op::AddTable(Table { comment: comment("rules of the node's Services") })];
    ops.extend(base_chains());
    ops.push(chain("lb/2"));
    ops.push(Op::AddChain(Chain { name: name("rules"), hook: None, comment: comment("each kind of rule") }));
    let sets = sets(family);
    ops.extend(sets.iter().map(|(set, _)| Op::AddSet(Arc::clone(set))));
    ops.extend(
        statements(family)
            .into_iter()
            .map(|statements| Op::AddRule(Rule { chain: name("rules"), statements, comment: None })),
    );
    ops.push(Op::AddRule(Rule {
        chain: name("rules"),
        statements: vec![
            Statement::IsLocal(Selector::DestinationAddress),
            Statement::NewConnection,
            Statement::Verdict(Verdict::Drop),
        ],
        comment: comment(&"long ".repeat(40)),
    }));
    ops.extend(sets.iter().map(|(set, elements)| add(set, elements.clone())));
    transaction(family, ops)
}

fn base_chains() -> Vec<Op> {
    let hooks = [
        ("nat-prerouting", ChainKind::Nat, HookPoint::Prerouting, -100),
        ("filter-input", ChainKind::Filter, HookPoint::Input, 0),
        ("filter-forward", ChainKind::Filter, HookPoint::Forward, -101),
        ("nat-output", ChainKind::Nat, HookPoint::Output, -100),
        ("nat-postrouting", ChainKind::Nat, HookPoint::Postrouting, 100),
    ];
    let chain = |(text, kind, point, priority)| {
        Op::AddChain(Chain { name: name(text), hook: Some(Hook { kind, point, priority }), comment: None })
    };
    hooks.into_iter().map(chain).collect()
}

/// A set's name, key and data type; an element's key and data.
type Row<'a> = (&'a str, &'a [Field], Option<DataType>, Words, Data);

/// Sets of many types and of each kind, and elements for them.
fn sets(family: Family) -> Vec<(Arc<Set>, Vec<Element>)> {
    [exact_sets(family), vec![dynamic(family)]].concat()
}

/// A map that rules write.
fn dynamic(family: Family) -> (Arc<Set>, Vec<Element>) {
    use Field::{Address, Port, Protocol};
    let (service, client, pod) = addresses(family);
    let set = Set {
        name: name("choices"),
        key: vec![Address, Address, Protocol, Port],
        data: Some(DataType::Value(vec![Address, Port])),
        kind: SetKind::Dynamic { size: NonZeroU32::new(1000).unwrap() },
        comment: comment("set of choices"),
    };
    let element = Element {
        key: Words::build().address(client).address(service).protocol(6).port(80).finish(),
        data: Data::Value(Words::build().address(pod).port(8080).datum()),
        comment: None,
    };
    (Arc::new(set), vec![element])
}

/// Sets of many types.
fn exact_sets(family: Family) -> Vec<(Arc<Set>, Vec<Element>)> {
    use Field::{Address, Index, Port, Protocol};
    let (service, client, pod) = addresses(family);
    let frontend = || Words::build().address(service).protocol(6).port(80);
    let value = Words::build().address(pod).port(8080).datum();
    let goto = Data::Verdict(Verdict::Goto(name("lb/2")));
    let to = || DataType::Value(vec![Address, Port]);
    let rows: [Row<'_>; 13] = [
        ("addresses", &[Address], None, Words::build().address(service).finish(), Data::None),
        ("ports", &[Port], None, Words::build().port(443).finish(), Data::None),
        ("protocols", &[Protocol], None, Words::build().protocol(17).finish(), Data::None),
        ("frontends", &[Address, Protocol, Port], None, frontend().finish(), Data::None),
        (
            "sources",
            &[Address, Protocol, Port, Address],
            None,
            Words::build().address(service).protocol(6).port(80).address(client).finish(),
            Data::None,
        ),
        (
            "hairpins",
            &[Address, Address, Protocol, Port],
            None,
            Words::build().address(pod).address(pod).protocol(132).port(1).finish(),
            Data::None,
        ),
        ("services", &[Address, Protocol, Port], Some(DataType::Verdict), frontend().finish(), goto),
        (
            "nodeports",
            &[Protocol, Port],
            Some(DataType::Verdict),
            Words::build().protocol(6).port(30_000).finish(),
            Data::Verdict(Verdict::Drop),
        ),
        (
            "healthchecks",
            &[Port],
            Some(DataType::Verdict),
            Words::build().port(9).finish(),
            Data::Verdict(Verdict::Jump(name("lb/2"))),
        ),
        (
            "exceptions",
            &[Protocol],
            Some(DataType::Verdict),
            Words::build().protocol(132).finish(),
            Data::Verdict(Verdict::Accept),
        ),
        ("single", &[Address, Protocol, Port], Some(to()), frontend().finish(), Data::Value(value)),
        ("endpoints", &[Address, Protocol, Port, Index], Some(to()), frontend().native(1).finish(), Data::Value(value)),
        (
            "affinity",
            &[Address, Address, Protocol, Port],
            Some(to()),
            Words::build().address(client).address(service).protocol(6).port(80).finish(),
            Data::Value(value),
        ),
    ];
    let rows = rows.into_iter().map(|(text, key, data_type, key_value, data)| {
        let set = Set {
            name: name(text),
            key: key.to_vec(),
            data: data_type,
            kind: SetKind::Static,
            comment: comment(&format!("set of {text}")),
        };
        let element = Element { key: key_value, data, comment: comment("prod/web:http") };
        (Arc::new(set), vec![element])
    });
    rows.collect()
}

fn addresses(family: Family) -> (std::net::IpAddr, std::net::IpAddr, std::net::IpAddr) {
    let texts = match family {
        Family::Ip => ["10.96.0.1", "192.0.2.7", "10.244.1.5"],
        Family::Ip6 => ["fd00:10:96::1", "2001:db8::7", "fd00:10:244:1::5"],
    };
    let [service, client, pod] = texts.map(|text| text.parse().unwrap());
    (service, client, pod)
}

/// One rule for each kind of statement, and more where the bytecode depends on the values.
fn statements(family: Family) -> Vec<Vec<Statement>> {
    use Selector::{
        DestinationAddress, DestinationPort, OriginalDestinationAddress, Protocol, Random, SourceAddress, SourceNetwork,
    };
    let sets = sets(family);
    let set = |text: &str| {
        let mut sets = sets.iter().map(|(set, _)| set);
        Arc::clone(sets.find(|set| set.name.as_str() == text).unwrap())
    };
    let frontend = || vec![DestinationAddress, Protocol, DestinationPort];
    let random = Random(NonZeroU32::new(2).unwrap());
    let mut single = prefixes(family);
    single.extend(interfaces());
    single.extend(lengths(family).map(|bits| {
        let key = [frontend(), vec![SourceNetwork(bits)]].concat();
        Statement::InSet { key, set: set("sources") }
    }));
    // nft 1.0.6 fails an assertion of its own (`dreg < ctx->reg_low`) on these in IPv6.
    if family == Family::Ip {
        single.extend([10_800, 93_784].map(|timeout| Statement::Update {
            key: vec![SourceAddress, OriginalDestinationAddress, Protocol, DestinationPort],
            data: vec![DestinationAddress, DestinationPort],
            map: set("choices"),
            timeout: NonZeroU32::new(timeout).unwrap(),
        }));
    }
    single.extend([
        Statement::InSet { key: vec![OriginalDestinationAddress], set: set("addresses") },
        Statement::IsLocal(SourceAddress),
        Statement::IsLocal(DestinationAddress),
        Statement::NewConnection,
        Statement::Translated,
        Statement::HasMark(0x4000),
        Statement::InSet { key: vec![DestinationAddress], set: set("addresses") },
        Statement::InSet { key: vec![DestinationPort], set: set("ports") },
        Statement::InSet { key: vec![Protocol], set: set("protocols") },
        Statement::InSet { key: frontend(), set: set("frontends") },
        Statement::InSet {
            key: vec![DestinationAddress, SourceAddress, Protocol, DestinationPort],
            set: set("hairpins"),
        },
        Statement::VerdictMap { key: frontend(), map: set("services") },
        Statement::VerdictMap { key: vec![Protocol, DestinationPort], map: set("nodeports") },
        Statement::VerdictMap { key: vec![DestinationPort], map: set("healthchecks") },
        Statement::Dnat { key: frontend(), map: set("single") },
        Statement::Dnat { key: [frontend(), vec![random]].concat(), map: set("endpoints") },
        Statement::Dnat {
            key: vec![SourceAddress, DestinationAddress, Protocol, DestinationPort],
            map: set("affinity"),
        },
        Statement::SetMark(0x4000),
        Statement::FlipMark(0x4000),
        Statement::Masquerade,
        Statement::Reject,
        Statement::Verdict(Verdict::Accept),
        Statement::Verdict(Verdict::Drop),
        Statement::Verdict(Verdict::Goto(name("lb/2"))),
        Statement::Verdict(Verdict::Jump(name("lb/2"))),
    ]);
    single.into_iter().map(|statement| vec![statement]).collect()
}

/// Names, and starts of names, of one word, of less and of more, and of all the bytes there are.
fn interfaces() -> Vec<Statement> {
    let texts = ["cni0", "a", "eight-it", "longest-name-15"];
    let interfaces = texts.iter().flat_map(|text| [Interface::named(text), Interface::prefixed(text)]);
    let statements = interfaces.flat_map(|interface| {
        [Comparison::Is, Comparison::IsNot]
            .map(|comparison| Statement::InputInterface { comparison, interface: interface.clone().unwrap() })
    });
    statements.collect()
}

/// How many bits of an address: one, whole bytes, others, and all.
fn lengths(family: Family) -> impl Iterator<Item = NonZeroU8> {
    let lengths: &[u8] = match family {
        Family::Ip => &[1, 24, 25, 32],
        Family::Ip6 => &[1, 24, 25, 32, 64, 127, 128],
    };
    lengths.iter().map(|bits| NonZeroU8::new(*bits).unwrap())
}

/// Prefixes of whole bytes, others, none, and single addresses.
fn prefixes(family: Family) -> Vec<Statement> {
    let texts: &[&str] = match family {
        Family::Ip => &["10.0.0.0/8", "10.128.0.0/9", "172.16.0.0/12", "10.1.2.3/32", "0.0.0.0/0"],
        Family::Ip6 => &["fd00::/8", "fd00:10:80::/41", "fe80::/10", "::1/128", "::/0"],
    };
    let statement = |(selector, comparison, text): (_, _, &str)| Statement::Prefix {
        selector,
        comparison,
        prefix: text.parse().unwrap(),
    };
    let rows = texts.iter().flat_map(|text| {
        [(Selector::SourceAddress, Comparison::Is, *text), (Selector::DestinationAddress, Comparison::IsNot, *text)]
    });
    rows.map(statement).collect()
}
