//! What the tests share: a namespace with the kernel's nf_tables in it, and a table in the manner of the compiler's.

#![allow(dead_code, reason = "each test uses some of it")]

use std::io::Write as _;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use netlink::NfTables;
use ruleset::{
    Chain, Comment, Data, DataType, Element, Family, Field, Kernel as _, Name, Op, Set, SetKind, Table, Transaction,
    Verdict, Words, reconcile,
};
use testing::netns::Namespace;

/// A namespace of its own, and its nf_tables.
pub(crate) fn kernel(label: &str) -> Result<(Namespace, NfTables)> {
    let namespace = Namespace::new(label)?;
    let kernel = namespace.run(NfTables::open)?;
    Ok((namespace, kernel))
}

/// Runs `nft` in a namespace.
pub(crate) fn nft(namespace: &Namespace, arguments: &str, input: &str) -> Result<String> {
    let mut nft = namespace
        .command("nft")
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nsenter")?;
    let mut stdin = nft.stdin.take().context("stdin is piped")?;
    // Output stays far below what a pipe holds until all of the input is read.
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = nft.wait_with_output()?;
    if !output.status.success() {
        bail!("nft {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a test names objects well")
}

pub(crate) fn transaction(family: Family, ops: Vec<Op>) -> Transaction {
    let mut transaction = Transaction::new(family, name("t"));
    transaction.ops = ops;
    transaction
}

pub(crate) fn table() -> Op {
    Op::AddTable(Table { comment: None })
}

pub(crate) fn chain(text: &str) -> Op {
    Op::AddChain(Chain { name: name(text), hook: None, comment: None })
}

pub(crate) fn set(text: &str, key: &[Field], data: Option<DataType>) -> Arc<Set> {
    Arc::new(Set { name: name(text), key: key.to_vec(), data, kind: SetKind::Static, comment: None })
}

/// A map that rules write: from client, address, protocol and port to address and port.
pub(crate) fn choices() -> Arc<Set> {
    let key = [Field::Address, Field::Address, Field::Protocol, Field::Port];
    let set = set("choices", &key, Some(DataType::Value(vec![Field::Address, Field::Port])));
    let size = NonZeroU32::new(1000).expect("it is not zero");
    Arc::new(Set { kind: SetKind::Dynamic { size }, ..Set::clone(&set) })
}

/// A set of networks of clients: address, protocol, port and network, of which so many bits count.
pub(crate) fn sources(bits: NonZeroU8) -> Arc<Set> {
    set(&format!("sources-{bits}"), &[Field::Address, Field::Protocol, Field::Port, Field::Address], None)
}

/// A map from address, protocol, port and index to address and port.
pub(crate) fn endpoints() -> Arc<Set> {
    set(
        "endpoints",
        &[Field::Address, Field::Protocol, Field::Port, Field::Index],
        Some(DataType::Value(vec![Field::Address, Field::Port])),
    )
}

/// The `n`th element of [`endpoints`].
pub(crate) fn endpoint(n: u32) -> Element {
    let key = Words::build().address(address(0x0a00_0000 + n)).protocol(6).port(80).native(n % 7);
    Element {
        key: key.finish(),
        data: Data::Value(Words::build().address(address(0x0b00_0000 + n)).port(8080).datum()),
        comment: None,
    }
}

pub(crate) fn address(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

pub(crate) fn verdict(key: Words, verdict: Verdict, comment: Option<&str>) -> Element {
    Element { key, data: Data::Verdict(verdict), comment: comment.map(Comment::new) }
}

pub(crate) fn add(set: &Arc<Set>, elements: Vec<Element>) -> Op {
    Op::AddElements { set: Arc::clone(set), elements }
}

pub(crate) fn delete(set: &Arc<Set>, elements: Vec<Element>) -> Op {
    Op::DeleteElements { set: Arc::clone(set), elements }
}

/// Reads back the table that a transaction made from nothing, and makes sure that it is just that.
pub(crate) fn reads_back(kernel: &mut NfTables, full: &Transaction) -> Result<()> {
    let found = kernel.read(full.family, &full.table)?.context("there is no table")?;
    let found = Arc::new(found);
    let reconciliation = reconcile(full.clone(), Some(Arc::clone(&found)), kernel);
    ensure!(reconciliation.transaction.is_empty(), "what differs:\n{}{found:#?}", reconciliation.transaction);
    ensure!(reconciliation.unwanted.is_empty(), "unwanted: {:?}", reconciliation.unwanted);
    let sorted = |mut elements: Vec<Element>| {
        elements.sort_by_key(|element| element.key);
        elements
    };
    for op in &full.ops {
        if let Op::AddElements { set, elements } = op
            && !matches!(set.kind, SetKind::Dynamic { .. })
        {
            let found = found.sets.get(&set.name).map(|set| sorted(set.elements.iter().collect()));
            ensure!(found == Some(sorted(elements.clone())), "{}: {elements:?}, found {found:?}", set.name);
        }
    }
    Ok(())
}
