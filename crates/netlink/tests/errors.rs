//! What is said when the kernel refuses.

mod common;

use std::num::NonZeroU8;
use std::sync::Arc;

use anyhow::Result;
use common::{add, chain, delete, endpoint, endpoints, kernel, name, nft, table, transaction};
use netlink::{NfTables, OpenError};
use ruleset::{
    Comment, CommitError, Data, DataType, Family, Field, Kernel as _, Op, Rejection, Rule, Selector, Statement,
    Verdict, Words,
};
use testing::netns::Namespace;

/// Commits a transaction that must be rejected, and returns what for.
fn rejections(kernel: &mut NfTables, ops: Vec<Op>) -> Vec<Rejection> {
    match kernel.commit(&transaction(Family::Ip, ops)) {
        Err(CommitError::Rejected { rejections }) => rejections,
        other => panic!("{other:?}"),
    }
}

fn errno(rejection: &Rejection) -> Option<i32> {
    rejection.source.raw_os_error()
}

/// A kernel with a map and the first 10,000 elements of it.
fn filled(label: &str) -> Result<(Namespace, NfTables, Arc<ruleset::Set>)> {
    let (namespace, mut kernel) = kernel(label)?;
    let set = endpoints();
    let ops = vec![table(), chain("c"), Op::AddSet(set.clone()), add(&set, (0..10_000).map(endpoint).collect())];
    kernel.commit(&transaction(Family::Ip, ops))?;
    Ok((namespace, kernel, set))
}

#[test]
fn an_element_that_exists_with_other_data() -> Result<()> {
    let (namespace, mut kernel, set) = filled("exists")?;
    let before = nft(&namespace, "list ruleset", "")?;
    let mut elements: Vec<_> = (10_000..20_000).map(endpoint).collect();
    // Of all lengths, by which the wrong one is found.
    for (n, element) in elements.iter_mut().enumerate() {
        element.comment = Some(Comment::new(&"x".repeat(n % 129)));
    }
    elements[5_432] = endpoint(77);
    elements[5_432].data = Data::Value(Words::build().address(common::address(1)).port(1).datum());

    let rejections = rejections(&mut kernel, vec![chain("new"), add(&set, elements)]);

    assert_eq!(rejections.len(), 1);
    assert_eq!(errno(&rejections[0]), Some(libc::EEXIST));
    assert_eq!(rejections[0].position, (1, Some(5_432)));
    assert_eq!(rejections[0].operation, "add element ip t endpoints { 10.0.0.77 . tcp . 80 . 0 : 0.0.0.1 . 1 }");
    assert_eq!(nft(&namespace, "list ruleset", "")?, before);
    Ok(())
}

#[test]
fn elements_to_delete_that_do_not_exist() -> Result<()> {
    let (namespace, mut kernel, set) = filled("missing")?;
    let before = nft(&namespace, "list ruleset", "")?;
    let mut elements: Vec<_> = (0..10_000).map(endpoint).collect();
    elements[0] = endpoint(10_001);
    elements[9_999] = endpoint(10_002);

    let rejections = rejections(&mut kernel, vec![delete(&set, elements)]);

    let positions: Vec<_> = rejections.iter().map(|rejection| rejection.position).collect();
    assert_eq!(positions, [(0, Some(0)), (0, Some(9_999))]);
    assert!(rejections.iter().all(|rejection| errno(rejection) == Some(libc::ENOENT)));
    assert!(rejections[0].operation.starts_with("delete element ip t endpoints { 10.0.39.17 . tcp . 80 . 5"));
    assert_eq!(nft(&namespace, "list ruleset", "")?, before);
    Ok(())
}

/// The kernel goes on after the first error, and so do we; each operation is named.
#[test]
fn operations_on_what_is_missing_or_in_use() -> Result<()> {
    let (namespace, mut kernel, set) = filled("operations")?;
    let ops = vec![Op::AddRule(Rule {
        chain: name("c"),
        statements: vec![Statement::Verdict(Verdict::Goto(name("used")))],
        comment: None,
    })];
    kernel.commit(&transaction(Family::Ip, [vec![chain("used")], ops].concat()))?;
    let before = nft(&namespace, "list ruleset", "")?;
    let nowhere = common::set("nowhere", &[Field::Address], None);

    let rejections = rejections(
        &mut kernel,
        vec![
            chain("fine"),
            Op::FlushChain(name("missing")),
            Op::DeleteChain(name("used")),
            Op::FlushSet(nowhere.clone()),
            Op::AddRule(Rule {
                chain: name("c"),
                statements: vec![Statement::InSet { key: vec![Selector::DestinationAddress], set: nowhere }],
                comment: None,
            }),
            add(&set, vec![endpoint(10_000)]),
        ],
    );

    let said: Vec<_> = rejections
        .iter()
        .map(|rejection| (rejection.position, errno(rejection), rejection.operation.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ((1, None), Some(libc::ENOENT), "flush chain ip t missing"),
            ((2, None), Some(libc::EBUSY), "delete chain ip t used"),
            ((3, None), Some(libc::ENOENT), "flush set ip t nowhere"),
            ((4, None), Some(libc::ENOENT), "add rule ip t c ip daddr @nowhere"),
        ]
    );
    assert_eq!(nft(&namespace, "list ruleset", "")?, before);
    Ok(())
}

/// The first operation is the one that a failure of the whole is reported at as well.
#[test]
fn the_only_operation() -> Result<()> {
    let (_namespace, mut kernel) = kernel("only")?;
    let rejections = rejections(&mut kernel, vec![Op::DeleteTable]);
    assert_eq!(rejections[0].operation, "delete table ip t");
    assert_eq!(errno(&rejections[0]), Some(libc::ENOENT));
    Ok(())
}

/// More errors than the socket's buffer has room for: what is lost does not make it a success, nor the next commit fail.
#[test]
fn more_errors_than_fit() -> Result<()> {
    let (namespace, mut kernel, set) = filled("many")?;
    let ops = (0..50_000).map(|n| delete(&set, vec![endpoint(20_000 + n)])).collect();
    let rejections = rejections(&mut kernel, ops);
    assert_eq!(rejections[0].position, (0, Some(0)));
    assert!(rejections.len() < 50_000, "there was room for all: the test needs more");
    kernel.commit(&transaction(Family::Ip, vec![Op::FlushSet(set)]))?;
    assert!(!nft(&namespace, "list ruleset", "")?.contains("elements"));
    Ok(())
}

#[test]
fn a_chain_loop() -> Result<()> {
    let (_namespace, mut kernel) = kernel("loop")?;
    let services = common::set("services", &[Field::Port], Some(DataType::Verdict));
    let rule = |text, statement| Op::AddRule(Rule { chain: name(text), statements: vec![statement], comment: None });
    let map = Statement::VerdictMap { key: vec![Selector::DestinationPort], map: services.clone() };
    let key = Words::build().port(80).finish();
    let ops = vec![
        table(),
        Op::AddChain(ruleset::Chain {
            name: name("base"),
            hook: Some(ruleset::Hook {
                kind: ruleset::ChainKind::Filter,
                point: ruleset::HookPoint::Input,
                priority: 0,
            }),
            comment: None,
        }),
        chain("a"),
        Op::AddSet(services.clone()),
        rule("base", map.clone()),
        rule("a", map),
        add(&services, vec![common::verdict(key, Verdict::Goto(name("a")), None)]),
    ];
    let error = kernel.commit(&transaction(Family::Ip, ops)).unwrap_err().to_string();
    assert_eq!(error, "the kernel refused add element ip t services { 80 : goto a }: Too many links (os error 31)");
    Ok(())
}

#[test]
fn statements_without_meaning() -> Result<()> {
    let (_namespace, mut kernel) = kernel("senseless")?;
    let rule = |statement: Statement, times| {
        Op::AddRule(Rule { chain: name("c"), statements: vec![statement; times], comment: None })
    };
    let prefix = Statement::Prefix {
        selector: Selector::SourceAddress,
        comparison: ruleset::Comparison::Is,
        prefix: "fd00::/8".parse()?,
    };
    let too_many = NonZeroU8::MIN.saturating_add(32);
    let addresses = common::set("addresses", &[Field::Address], None);
    let ops = vec![
        table(),
        chain("c"),
        rule(prefix, 1),
        rule(Statement::IsLocal(Selector::Protocol), 1),
        rule(Statement::InSet { key: vec![Selector::SourceNetwork(too_many)], set: addresses }, 1),
        rule(Statement::NewConnection, 50),
    ];
    let rejections = rejections(&mut kernel, ops);
    let said: Vec<_> = rejections.iter().map(|rejection| rejection.source.to_string()).collect();
    assert_eq!(
        said,
        [
            "the prefix is not of the table's address family",
            "only an address can be local",
            "an address has fewer bits than are to be kept",
            "the rule has more statements than the kernel takes",
        ]
    );
    Ok(())
}

/// Runs the next test in a process that may not change nftables.
#[test]
fn no_privilege() -> Result<()> {
    testing::deprived::run("in_a_process_without_privilege")
}

#[test]
#[ignore = "no_privilege runs it, as a process that has been deprived"]
fn in_a_process_without_privilege() {
    let error = NfTables::open().err().unwrap();
    assert!(matches!(error, OpenError::NotPermitted), "{error}");
    assert!(error.to_string().contains("NET_ADMIN"));
}
