//! How objects print, and what the in-memory kernel accepts.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;

use ruleset::{
    Chain, ChainKind, Comment, CommitError, Comparison, Data, DataType, Element, Fake, Family, Field, Hook, HookPoint,
    Interface, Kernel, Name, Op, Rule, Selector, Set, SetKind, Statement, Table, Transaction, Verdict, Words,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn set(set: &str, key: Vec<Field>, data: Option<DataType>) -> Arc<Set> {
    Arc::new(Set { name: name(set), key, data, kind: SetKind::Static, comment: None })
}

fn frontends() -> Arc<Set> {
    set("frontends", vec![Field::Address, Field::Protocol, Field::Port], Some(DataType::Verdict))
}

fn endpoints() -> Arc<Set> {
    let key = vec![Field::Address, Field::Protocol, Field::Port, Field::Index];
    set("endpoints", key, Some(DataType::Value(vec![Field::Address, Field::Port])))
}

fn choices() -> Arc<Set> {
    let set = set("choices", vec![Field::Address], Some(DataType::Value(vec![Field::Address, Field::Port])));
    let size = NonZeroU32::new(1000).unwrap();
    Arc::new(Set { kind: SetKind::Dynamic { size }, comment: Some(Comment::new("x")), ..Set::clone(&set) })
}

fn frontend(address: &str, port: u16) -> Words {
    Words::build().address(address.parse().unwrap()).protocol(6).port(port).finish()
}

fn to_chain(key: Words, chain: &str) -> Element {
    Element { key, data: Data::Verdict(Verdict::Goto(name(chain))), comment: None }
}

fn chain(chain: &str) -> Op {
    Op::AddChain(Chain { name: name(chain), hook: None, comment: None })
}

fn rule(chain: &str, statements: Vec<Statement>) -> Op {
    Op::AddRule(Rule { chain: name(chain), statements, comment: None })
}

fn transaction(ops: Vec<Op>) -> Transaction {
    Transaction { family: Family::Ip, table: name("t"), ops }
}

#[test]
fn operations_print_as_nft_reads_them() {
    let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Prerouting, priority: -100 };
    let slot = Words::build().address([10, 96, 0, 1].into()).protocol(17).port(53).native(3).finish();
    let endpoint = Words::build().address([10, 0, 0, 7].into()).port(5353).datum();
    let cases = [
        (Op::AddTable(Table { comment: Some(Comment::new("a \"b\"")) }), r#"add table ip t { comment "a b" ; }"#),
        (Op::DeleteTable, "delete table ip t"),
        (
            Op::AddChain(Chain { name: name("c"), hook: Some(hook), comment: Some(Comment::new("why")) }),
            r#"add chain ip t c { type nat hook prerouting priority -100 ; comment "why" ; }"#,
        ),
        (Op::FlushChain(name("c")), "flush chain ip t c"),
        (Op::DeleteRule { chain: name("c"), handle: 7 }, "delete rule ip t c handle 7"),
        (Op::DeleteChain(name("c")), "delete chain ip t c"),
        (Op::AddSet(frontends()), "add map ip t frontends { type ipv4_addr . inet_proto . inet_service : verdict ; }"),
        (
            Op::AddSet(endpoints()),
            "add map ip t endpoints { typeof ip daddr . meta l4proto . th dport . numgen random mod 2 : ip daddr . th dport ; }",
        ),
        (
            Op::AddSet(choices()),
            r#"add map ip t choices { type ipv4_addr : ipv4_addr . inet_service ; size 1000 ; flags dynamic,timeout ; comment "x" ; }"#,
        ),
        (Op::FlushSet(set("s", vec![Field::Address], None)), "flush set ip t s"),
        (
            Op::AddElements { set: frontends(), elements: vec![to_chain(frontend("10.0.0.1", 80), "c")] },
            "add element ip t frontends { 10.0.0.1 . tcp . 80 : goto c }",
        ),
        (
            Op::AddElements {
                set: endpoints(),
                elements: vec![Element { key: slot, data: Data::Value(endpoint), comment: Some(Comment::new("x")) }],
            },
            r#"add element ip t endpoints { 10.96.0.1 . udp . 53 . 3 comment "x" : 10.0.0.7 . 5353 }"#,
        ),
    ];
    for (op, expected) in cases {
        assert_eq!(transaction(vec![]).display(&op).to_string(), expected);
    }
}

#[test]
fn statements_print_as_nft_reads_them() {
    let key = || vec![Selector::DestinationAddress, Selector::Protocol, Selector::DestinationPort];
    let random = Selector::Random(NonZeroU32::new(7).unwrap());
    let prefix = |text: &str| text.parse().unwrap();
    let update = |timeout| Statement::Update {
        key: vec![Selector::OriginalDestinationAddress],
        data: vec![Selector::DestinationAddress, Selector::OriginalDestinationPort],
        map: choices(),
        timeout: NonZeroU32::new(timeout).unwrap(),
    };
    let cases = [
        (
            Statement::Prefix {
                selector: Selector::SourceAddress,
                comparison: Comparison::IsNot,
                prefix: prefix("10.0.0.0/8"),
            },
            "ip saddr != 10.0.0.0/8",
        ),
        (
            Statement::Prefix {
                selector: Selector::DestinationAddress,
                comparison: Comparison::Is,
                prefix: prefix("10.0.0.1/32"),
            },
            "ip daddr 10.0.0.1",
        ),
        (
            Statement::InputInterface { comparison: Comparison::Is, interface: Interface::named("cni0").unwrap() },
            r#"iifname "cni0""#,
        ),
        (
            Statement::InputInterface {
                comparison: Comparison::IsNot,
                interface: Interface::prefixed("veth").unwrap(),
            },
            r#"iifname != "veth*""#,
        ),
        (update(10_800), "update @choices { ct original ip daddr timeout 3h : ip daddr . ct original proto-dst }"),
        (
            update(93_784),
            "update @choices { ct original ip daddr timeout 1d2h3m4s : ip daddr . ct original proto-dst }",
        ),
        (Statement::IsLocal(Selector::SourceAddress), "fib saddr type local"),
        (Statement::NewConnection, "ct state new"),
        (Statement::Translated, "ct status dnat"),
        (Statement::HasMark(0x4000), "meta mark & 0x00004000 != 0x00000000"),
        (Statement::SetMark(0x4000), "meta mark set meta mark | 0x00004000"),
        (Statement::VerdictMap { key: key(), map: frontends() }, "ip daddr . meta l4proto . th dport vmap @frontends"),
        (
            Statement::Dnat { key: [key(), vec![random]].concat(), map: endpoints() },
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 7 map @endpoints",
        ),
        (Statement::Masquerade, "masquerade fully-random"),
        (Statement::Verdict(Verdict::Jump(name("c"))), "jump c"),
        (Statement::Verdict(Verdict::Accept), "accept"),
    ];
    for (statement, expected) in cases {
        assert_eq!(statement.display(Family::Ip).to_string(), expected);
    }
}

#[test]
fn networks_of_sources_print_as_nft_reads_them() {
    let cases = [
        (Family::Ip, 1, "ip saddr & 128.0.0.0"),
        (Family::Ip, 24, "ip saddr & 255.255.255.0"),
        (Family::Ip, 25, "ip saddr & 255.255.255.128"),
        (Family::Ip, 32, "ip saddr & 255.255.255.255"),
        (Family::Ip6, 1, "ip6 saddr & 8000::"),
        (Family::Ip6, 25, "ip6 saddr & ffff:ff80::"),
        (Family::Ip6, 64, "ip6 saddr & ffff:ffff:ffff:ffff::"),
        (Family::Ip6, 128, "ip6 saddr & ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ];
    for (family, bits, expected) in cases {
        let network = Selector::SourceNetwork(NonZeroU8::new(bits).unwrap());
        let key = vec![Selector::DestinationAddress, Selector::Protocol, Selector::DestinationPort, network];
        let statement = Statement::InSet { key, set: set("sources", vec![], None) };
        let expected = format!("{family} daddr . meta l4proto . th dport . {expected} @sources");
        assert_eq!(statement.display(family).to_string(), expected);
    }
}

#[test]
fn names_and_comments_fit_into_the_kernel() {
    assert!(Name::new(&"n".repeat(127)).is_ok());
    for bad in ["", &"n".repeat(128), "a b", "1a", "a\"", "é"] {
        assert!(Name::new(bad).is_err(), "{bad}");
    }
    assert_eq!(Comment::new(&"c".repeat(200)).as_str().len(), 128);
    let wide = Comment::new(&"é".repeat(100));
    assert_eq!(wide.as_str(), "é".repeat(64), "cut between characters");
    assert_eq!(Comment::new("line\n\"quoted\"").as_str(), "linequoted");
}

#[test]
fn names_of_interfaces_fit_into_the_kernel() {
    for bad in ["", &"n".repeat(16), "a b", "a/b", "a:b", "a*", "a\"", "a\\", "é"] {
        assert!(Interface::named(bad).is_err() && Interface::prefixed(bad).is_err(), "{bad}");
    }
    let longest = "n".repeat(15);
    assert_eq!(Interface::prefixed(&longest), Interface::named(&longest), "nothing longer can start like that");
    assert!(Interface::prefixed(&longest[1..]).is_ok_and(|interface| interface.is_prefix()));
}

/// A table with a chain, a base chain, and both maps.
fn world() -> Fake {
    let mut fake = Fake::new();
    let table = Op::AddTable(Table { comment: None });
    let ops = vec![table, chain("c"), Op::AddSet(frontends()), Op::AddSet(endpoints())];
    fake.commit(&transaction(ops)).unwrap();
    fake
}

#[test]
fn a_transaction_that_fails_changes_nothing_and_names_each_failure() {
    let mut fake = world();
    let before = format!("{fake:?}");
    let elements = vec![to_chain(frontend("10.0.0.1", 80), "c"), to_chain(frontend("10.0.0.2", 80), "missing")];
    let failing =
        transaction(vec![chain("d"), Op::AddElements { set: frontends(), elements }, Op::DeleteChain(name("missing"))]);
    let Err(CommitError::Rejected { rejections }) = fake.commit(&failing) else { panic!("it was committed") };
    let texts: Vec<_> = rejections.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "add element ip t frontends { 10.0.0.2 . tcp . 80 : goto missing }: No such file or directory (os error 2)",
            "delete chain ip t missing: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(rejections[0].position, (1, Some(1)));
    assert_eq!(format!("{fake:?}"), before);
}

#[test]
fn what_the_kernel_refuses() {
    let add =
        |chain: &str| Op::AddElements { set: frontends(), elements: vec![to_chain(frontend("10.0.0.1", 80), chain)] };
    let delete = || Op::DeleteElements { set: frontends(), elements: vec![to_chain(frontend("10.0.0.1", 80), "c")] };
    let plain = Element { key: frontend("10.0.0.1", 80), data: Data::None, comment: None };
    let goto = || vec![Statement::Verdict(Verdict::Goto(name("c")))];
    let (missing, busy, exists, invalid) = (Some(2), Some(16), Some(17), Some(22));
    let cases: Vec<(&str, Vec<Op>, Option<i32>)> = vec![
        ("an element twice with the same data", vec![add("c"), add("c")], None),
        ("an element twice with other data", vec![chain("d"), add("c"), add("d")], exists),
        ("an element replaced", vec![chain("d"), add("c"), delete(), add("d")], None),
        ("an element deleted that is not there", vec![delete()], missing),
        (
            "data that a verdict map cannot hold",
            vec![Op::AddElements { set: frontends(), elements: vec![plain] }],
            invalid,
        ),
        ("a chain deleted that an element leads to", vec![add("c"), Op::DeleteChain(name("c"))], busy),
        ("a chain deleted that a rule leads to", vec![chain("d"), rule("d", goto()), Op::DeleteChain(name("c"))], busy),
        ("a chain deleted after its element", vec![add("c"), delete(), Op::DeleteChain(name("c"))], None),
        ("a rule in a chain that is not there", vec![rule("d", goto())], missing),
        (
            "a rule to a chain that is not there",
            vec![Op::DeleteChain(name("c")), chain("d"), rule("d", goto())],
            missing,
        ),
        ("a set as another kind", vec![Op::AddSet(set("endpoints", vec![Field::Address], None))], exists),
        ("anything after the table is gone", vec![Op::DeleteTable, chain("d")], missing),
        ("the table again", vec![Op::DeleteTable, Op::AddTable(Table { comment: None }), chain("c")], None),
    ];
    for (what, ops, expected) in cases {
        let found = match world().commit(&transaction(ops)) {
            Ok(_) => None,
            Err(CommitError::Rejected { rejections }) => rejections[0].source.raw_os_error(),
            Err(other) => panic!("{what}: {other}"),
        };
        assert_eq!(found, expected, "{what}");
    }
}
