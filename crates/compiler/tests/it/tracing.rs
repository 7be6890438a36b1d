//! The tracer itself, on small rulesets written by hand: what it says of the compiler's is only worth what it says of these.

use std::num::NonZeroU32;
use std::sync::Arc;

use compiler::{Packet, Tracer};
use model::Protocol;
use ruleset::{
    Chain, ChainKind, Comparison, Data, DataType, Element, Fake, Family, Field, Hook, HookPoint, Interface, Kernel,
    Name, Op, Rule, Selector, Set, SetKind, Statement, Table, Transaction, Verdict, Words,
};

use crate::world::{ip, shown};

const NODE: &str = "192.168.0.2";
const HERE: &str = "10.0.0.1";
const THERE: &str = "10.0.0.2";
const CLIENT: &str = "203.0.113.9";

/// The chains that may have rules: base chains are named after their hooks, but for two more where packets come in.
const CHAINS: [(&str, Option<(HookPoint, i32)>); 9] = [
    ("early", Some((HookPoint::Prerouting, -10))),
    ("prerouting", Some((HookPoint::Prerouting, 0))),
    ("late", Some((HookPoint::Prerouting, 10))),
    ("input", Some((HookPoint::Input, 0))),
    ("forward", Some((HookPoint::Forward, 0))),
    ("output", Some((HookPoint::Output, 0))),
    ("postrouting", Some((HookPoint::Postrouting, 0))),
    ("aside", None),
    ("other", None),
];

type Rules = Vec<Vec<Statement>>;

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn set(text: &str, key: &[Field], data: Option<DataType>, kind: SetKind) -> Arc<Set> {
    Arc::new(Set { name: name(text), key: key.to_vec(), data, kind, comment: None })
}

/// Addresses, of which [`HERE`] is one.
fn addresses() -> Arc<Set> {
    set("addresses", &[Field::Address], None, SetKind::Static)
}

/// Ports and verdicts.
fn verdicts() -> Arc<Set> {
    set("verdicts", &[Field::Port], Some(DataType::Verdict), SetKind::Static)
}

/// Ports and numbers, and where they lead.
fn ends() -> Arc<Set> {
    let data = DataType::Value(vec![Field::Address, Field::Port]);
    set("ends", &[Field::Port, Field::Index], Some(data), SetKind::Static)
}

/// Clients and where they were sent.
fn notes() -> Arc<Set> {
    let kind = SetKind::Dynamic { size: NonZeroU32::new(8).unwrap() };
    set("notes", &[Field::Address, Field::Address], Some(DataType::Value(vec![Field::Address])), kind)
}

/// A kernel with these rules.
fn kernel(rules: &[(&str, Rules)]) -> Fake {
    let chain = |(text, hook): (&str, Option<(HookPoint, i32)>)| {
        let hook = hook.map(|(point, priority)| Hook { kind: ChainKind::Filter, point, priority });
        Op::AddChain(Chain { name: name(text), hook, comment: None })
    };
    let rule = |chain: &str, statements: &Vec<Statement>| {
        Op::AddRule(Rule { chain: name(chain), statements: statements.clone(), comment: None })
    };
    let port = |port: u16| Words::build().port(port);
    let element = |key, data| Element { key, data, comment: None };
    let verdict = |(number, verdict): (u16, Verdict)| element(port(number).finish(), Data::Verdict(verdict));
    let verdict_list =
        [(1, Verdict::Drop), (2, Verdict::Accept), (3, goto("aside")), (4, jump("aside"))].map(verdict).to_vec();
    let end = |(number, index, to): (u16, u32, &str)| {
        element(port(number).native(index).finish(), Data::Value(Words::build().address(ip(to)).port(8080).datum()))
    };
    let end_list = [(80, 0, HERE), (80, 1, THERE), (81, 1, THERE)].map(end).to_vec();
    let mut ops = vec![Op::AddTable(Table { comment: None })];
    ops.extend(CHAINS.map(chain));
    ops.extend([addresses(), verdicts(), ends(), notes()].map(Op::AddSet));
    ops.extend(rules.iter().flat_map(|(chain, rules)| rules.iter().map(|statements| rule(chain, statements))));
    let here = element(Words::build().address(ip(HERE)).finish(), Data::None);
    let elements = [(addresses(), vec![here]), (verdicts(), verdict_list), (ends(), end_list)];
    ops.extend(elements.map(|(set, elements)| Op::AddElements { set, elements }));
    let mut kernel = Fake::new();
    kernel.commit(&Transaction { ops, ..Transaction::new(Family::Ip, name("t")) }).unwrap();
    kernel
}

fn packet(source: &str, destination: &str, port: u16) -> Packet {
    Packet { source: ip(source), destination: ip(destination), protocol: Protocol::Tcp, port }
}

/// Asks the tracer: two networks are behind interfaces.
fn ask<T>(rules: &[(&str, Rules)], ask: impl FnOnce(Tracer<'_>) -> T) -> T {
    let kernel = kernel(rules);
    let interfaces = [("10.0.0.0/8".parse().unwrap(), "cni0"), ("203.0.113.0/24".parse().unwrap(), "eth0")];
    let table = kernel.table(Family::Ip, &name("t")).unwrap();
    ask(Tracer::new(table, &[ip(NODE)]).with_interfaces(&interfaces))
}

/// Checks packets: source, destination, port, expected fate; `-` where the packet arrives where it was sent.
fn check(rules: &[(&str, Rules)], cases: &[(&str, &str, u16, &str)]) {
    for (source, destination, port, expected) in cases {
        let found = ask(rules, |tracer| shown(&tracer.trace(packet(source, destination, *port))));
        let expected = expected.replace('-', &format!("{destination}:{port}"));
        assert_eq!(found, expected, "{source} to {destination}:{port}");
    }
}

const DROP: Statement = Statement::Verdict(Verdict::Drop);
const ACCEPT: Statement = Statement::Verdict(Verdict::Accept);

fn goto(chain: &str) -> Verdict {
    Verdict::Goto(name(chain))
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(name(chain))
}

fn address(selector: Selector, comparison: Comparison, prefix: &str) -> Statement {
    Statement::Prefix { selector, comparison, prefix: prefix.parse().unwrap() }
}

fn to(prefix: &str) -> Statement {
    address(Selector::DestinationAddress, Comparison::Is, prefix)
}

fn by(comparison: Comparison, interface: Interface) -> Statement {
    Statement::InputInterface { comparison, interface }
}

fn dnat(modulus: u32) -> Statement {
    let random = Selector::Random(NonZeroU32::new(modulus).unwrap());
    Statement::Dnat { key: vec![Selector::DestinationPort, random], map: ends() }
}

#[test]
fn the_first_verdict_counts() {
    let not_from_client = address(Selector::SourceAddress, Comparison::IsNot, "203.0.113.0/24");
    let rules =
        vec![vec![to("10.0.0.1/32"), ACCEPT], vec![to("10.0.0.2/32"), Statement::Reject], vec![not_from_client, DROP]];
    check(
        &[("prerouting", rules)],
        &[
            (CLIENT, HERE, 80, "-"),
            (HERE, HERE, 80, "-"),
            (CLIENT, THERE, 80, "reject"),
            (HERE, THERE, 80, "reject"),
            (CLIENT, "10.0.0.3", 80, "-"),
            (HERE, "10.0.0.3", 80, "drop"),
        ],
    );
}

/// Where a chain that drops everything stops packets: to the node, through it, sent by it to others and to itself.
#[test]
fn packets_pass_the_hooks_of_their_way() {
    for (hook, expected) in [
        ("prerouting", ["drop", "drop", "-", "-"]),
        ("input", ["drop", "-", "-", "drop"]),
        ("forward", ["-", "drop", "-", "-"]),
        ("output", ["-", "-", "drop", "drop"]),
        ("postrouting", ["-", "drop", "drop", "drop"]),
        ("aside", ["-", "-", "-", "-"]),
    ] {
        let ways = [(CLIENT, NODE), (CLIENT, HERE), (NODE, HERE), (NODE, "127.0.0.1")];
        for ((source, destination), expected) in ways.into_iter().zip(expected) {
            check(&[(hook, vec![vec![DROP]])], &[(source, destination, 80, expected)]);
        }
    }
}

#[test]
fn chains_of_a_hook_run_by_priority_and_accepting_ends_only_one() {
    let marked = Statement::HasMark(1);
    let set_mark = vec![vec![Statement::SetMark(1)]];
    let drop_marked = vec![vec![marked.clone(), DROP]];
    check(&[("early", set_mark.clone()), ("prerouting", drop_marked.clone())], &[(CLIENT, HERE, 80, "drop")]);
    check(&[("late", set_mark.clone()), ("prerouting", drop_marked.clone())], &[(CLIENT, HERE, 80, "-")]);
    let accept = vec![vec![ACCEPT], vec![DROP]];
    check(&[("early", set_mark), ("prerouting", accept), ("late", drop_marked)], &[(CLIENT, HERE, 80, "drop")]);
    let flipped = vec![vec![Statement::SetMark(5)], vec![Statement::FlipMark(1)], vec![marked, DROP]];
    let kept = vec![vec![Statement::HasMark(4), DROP]];
    check(&[("early", flipped.clone())], &[(CLIENT, HERE, 80, "-")]);
    check(&[("early", flipped), ("late", kept)], &[(CLIENT, HERE, 80, "drop")]);
}

#[test]
fn a_jump_comes_back_and_goto_does_not() {
    let aside = || ("aside", vec![vec![Statement::SetMark(1)], vec![to("10.0.0.1/32"), ACCEPT]]);
    let with = |verdict: Verdict| vec![vec![Statement::Verdict(verdict)], vec![Statement::HasMark(1), DROP]];
    check(&[("prerouting", with(jump("aside"))), aside()], &[(CLIENT, HERE, 80, "-"), (CLIENT, THERE, 80, "drop")]);
    check(&[("prerouting", with(goto("aside"))), aside()], &[(CLIENT, HERE, 80, "-"), (CLIENT, THERE, 80, "-")]);
    // What goes on from where it was led to comes back to where it was led from.
    let on = ("other", vec![vec![Statement::Verdict(goto("aside"))], vec![to("10.0.0.2/32"), Statement::Reject]]);
    check(&[("prerouting", with(jump("other"))), on, aside()], &[(CLIENT, HERE, 80, "-"), (CLIENT, THERE, 80, "drop")]);
}

#[test]
fn sets_and_verdict_maps() {
    let in_set = Statement::InSet { key: vec![Selector::SourceAddress], set: addresses() };
    check(&[("prerouting", vec![vec![in_set, DROP]])], &[(HERE, CLIENT, 80, "drop"), (THERE, CLIENT, 80, "-")]);
    let map = Statement::VerdictMap { key: vec![Selector::DestinationPort], map: verdicts() };
    let rules =
        [("prerouting", vec![vec![map], vec![Statement::Reject]]), ("aside", vec![vec![to("10.0.0.1/32"), DROP]])];
    check(
        &rules,
        &[
            (CLIENT, HERE, 1, "drop"),
            (CLIENT, HERE, 2, "-"),
            (CLIENT, HERE, 3, "drop"),
            (CLIENT, THERE, 3, "-"),
            (CLIENT, HERE, 4, "drop"),
            (CLIENT, THERE, 4, "reject"),
            (CLIENT, HERE, 5, "reject"),
        ],
    );
}

/// Every number that chance may bring is tried. One that leads nowhere goes on to the next rule.
#[test]
fn chance_and_translation() {
    let translate = |modulus| vec![vec![dnat(modulus)], vec![Statement::Reject]];
    for (hook, source) in [("prerouting", CLIENT), ("output", NODE)] {
        let check =
            |modulus, port, expected| check(&[(hook, translate(modulus))], &[(source, "10.9.9.9", port, expected)]);
        check(1, 80, "10.0.0.1:8080");
        check(2, 80, "10.0.0.1:8080, 10.0.0.2:8080");
        check(3, 80, "10.0.0.1:8080, 10.0.0.2:8080, reject");
        check(1, 81, "reject");
        check(2, 81, "10.0.0.2:8080, reject");
        check(2, 82, "reject");
    }
    // A packet that is translated takes the way of its new destination, and later hooks see that.
    let forward = |statements: Vec<Statement>| [("prerouting", vec![vec![dnat(2)]]), ("forward", vec![statements])];
    check(&forward(vec![to("10.0.0.1/32"), DROP]), &[(CLIENT, NODE, 80, "10.0.0.2:8080, drop")]);
    check(&forward(vec![Statement::Translated, DROP]), &[(CLIENT, NODE, 80, "drop"), (CLIENT, THERE, 82, "-")]);
}

#[test]
fn masquerading() {
    let marked =
        vec![vec![Statement::HasMark(1), Statement::FlipMark(1), Statement::Masquerade], vec![Statement::Reject]];
    let mark = |bits| vec![vec![to("10.0.0.1/32"), Statement::SetMark(bits)]];
    check(
        &[("prerouting", mark(1)), ("postrouting", marked.clone())],
        &[(CLIENT, HERE, 80, "- masq"), (CLIENT, THERE, 80, "reject")],
    );
    check(&[("prerouting", mark(2)), ("postrouting", marked)], &[(CLIENT, HERE, 80, "reject")]);
}

#[test]
fn where_packets_come_from() {
    let cases: &[(Statement, [&str; 3])] = &[
        (by(Comparison::Is, Interface::named("cni0").unwrap()), ["drop", "-", "-"]),
        (by(Comparison::Is, Interface::named("cni").unwrap()), ["-", "-", "-"]),
        (by(Comparison::Is, Interface::prefixed("cni").unwrap()), ["drop", "-", "-"]),
        (by(Comparison::IsNot, Interface::named("cni0").unwrap()), ["-", "drop", "drop"]),
        (by(Comparison::IsNot, Interface::prefixed("e").unwrap()), ["drop", "-", "drop"]),
        (Statement::IsLocal(Selector::SourceAddress), ["-", "-", "drop"]),
        (Statement::IsLocal(Selector::DestinationAddress), ["-", "-", "-"]),
    ];
    for (statement, expected) in cases {
        let rules = vec![vec![statement.clone(), DROP]];
        let rules = [("prerouting", rules.clone()), ("output", rules)];
        for (source, expected) in [HERE, CLIENT, NODE].into_iter().zip(expected) {
            check(&rules, &[(source, THERE, 80, expected)]);
        }
    }
    let local = vec![vec![Statement::IsLocal(Selector::DestinationAddress), DROP]];
    check(&[("prerouting", local)], &[(CLIENT, NODE, 80, "drop"), (CLIENT, "192.168.0.3", 80, "-")]);
}

/// The packet is the first of its connection.
#[test]
fn what_only_later_packets_have() {
    for statement in [Statement::Established, Statement::Offloaded, Statement::MorePackets(1), Statement::Translated] {
        check(&[("prerouting", vec![vec![statement, DROP]])], &[(CLIENT, HERE, 80, "-")]);
    }
    check(&[("prerouting", vec![vec![Statement::NewConnection, DROP]])], &[(CLIENT, HERE, 80, "drop")]);
}

/// A note is made where a packet passes, of what it is then and was at first, and not of one that does not arrive.
#[test]
fn what_is_noted() {
    let timeout = NonZeroU32::new(60).unwrap();
    let note = Statement::Update {
        key: vec![Selector::SourceAddress, Selector::OriginalDestinationAddress],
        data: vec![Selector::DestinationAddress],
        map: notes(),
        timeout,
    };
    let rules = [
        ("prerouting", vec![vec![dnat(2)]]),
        ("forward", vec![vec![Statement::Translated, note]]),
        ("postrouting", vec![vec![to("10.0.0.2/32"), DROP]]),
    ];
    let noted = |port| ask(&rules, |tracer| tracer.notes(packet(CLIENT, "10.9.9.9", port)));
    let key = Words::build().address(ip(CLIENT)).address(ip("10.9.9.9")).finish();
    assert_eq!(noted(80), [(key, Words::build().address(ip(HERE)).datum(), timeout)].into());
    assert_eq!(noted(82), [].into());
}
