//! Elements in any number.

mod common;

use anyhow::Result;
use common::{add, chain, delete, endpoint, endpoints, kernel, nft, table, transaction};
use netlink::NfTables;
use ruleset::{Comment, CommitReport, Data, DataType, Element, Family, Field, Kernel as _, Op, Verdict, Words};
use testing::netns::Namespace;

/// Around what fits in one byte, in the default buffers, and in one message; and what a large cluster has.
#[test]
fn any_number_is_added_and_deleted() -> Result<()> {
    for count in [0, 1, 255, 257, 1_500, 10_000] {
        let (namespace, mut kernel) = kernel("elements")?;
        added_and_deleted(&namespace, &mut kernel, count)?;
    }
    Ok(())
}

#[test]
fn a_hundred_thousand_elements() -> Result<()> {
    let (namespace, mut kernel) = kernel("100k")?;
    let report = added_and_deleted(&namespace, &mut kernel, 100_000)?;
    println!("100,000 elements: {report:?}");
    Ok(())
}

#[test]
fn half_a_million_elements() -> Result<()> {
    let (namespace, mut kernel) = kernel("500k")?;
    let report = added_and_deleted(&namespace, &mut kernel, 500_000)?;
    println!("500,000 elements: {report:?}");
    Ok(())
}

/// One operation for each element: as many messages, of which the kernel must not acknowledge each.
#[test]
fn ten_thousand_operations() -> Result<()> {
    let (namespace, mut kernel) = kernel("operations")?;
    let set = endpoints();
    let mut ops = vec![table(), Op::AddSet(set.clone())];
    ops.extend((0..10_000).map(|n| add(&set, vec![endpoint(n)])));
    kernel.commit(&transaction(Family::Ip, ops))?;
    let listing = nft(&namespace, "list map ip t endpoints", "")?;
    assert_eq!(listing.matches("tcp").count(), 10_000);
    Ok(())
}

/// The longest elements there can be, so that their sizes, by which they are distributed to messages, are right.
#[test]
fn long_elements() -> Result<()> {
    let (namespace, mut kernel) = kernel("long")?;
    let target = format!("c{}", "h".repeat(126));
    let services = common::set("services", &[Field::Address, Field::Port], Some(DataType::Verdict));
    let element = |n: u32| Element {
        key: Words::build().address(common::address(n)).port(80).finish(),
        data: Data::Verdict(Verdict::Goto(common::name(&target))),
        comment: Some(Comment::new(&"x".repeat(n as usize % 128))),
    };
    let ops =
        vec![table(), chain(&target), Op::AddSet(services.clone()), add(&services, (1..=5_000).map(element).collect())];
    kernel.commit(&transaction(Family::Ip, ops))?;
    let listing = nft(&namespace, "list map ip t services", "")?;
    assert_eq!(listing.matches("goto").count(), 5_000);
    assert!(listing.contains(&format!("comment \"{}\"", "x".repeat(127))));
    Ok(())
}

/// Adds so many elements to a new map, and deletes all but one, which is right only if each was there. Returns the report
/// of the first.
fn added_and_deleted(namespace: &Namespace, kernel: &mut NfTables, number: u32) -> Result<CommitReport> {
    let set = endpoints();
    let mut elements: Vec<_> = (0..number).map(endpoint).collect();
    let ops = vec![table(), Op::AddSet(set.clone()), add(&set, elements.clone())];
    let report = kernel.commit(&transaction(Family::Ip, ops))?;

    let left = elements.pop();
    kernel.commit(&transaction(Family::Ip, vec![delete(&set, elements)]))?;
    let listing = nft(namespace, "list map ip t endpoints", "")?;
    assert_eq!(listing.matches("tcp").count(), usize::from(left.is_some()));
    if let Some(left) = left {
        let left = set.display_element(&left, Family::Ip).to_string();
        assert!(listing.contains(&left), "no {left} in {listing}");
    }
    Ok(report)
}
