//! `nft` prints what it cannot read, and a listing of everything does not fail by it.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Result;
use common::{add, chain, choices, kernel, name, nft, table, transaction};
use ruleset::{Data, Element, Family, Field, Kernel as _, Op, Rule, Selector, Set, Statement, Verdict, Words};

use Selector::{
    DestinationAddress, DestinationPort, OriginalDestinationAddress, OriginalDestinationPort, Protocol, SourceAddress,
};

/// `nft` has no type for `ct original proto-dst`, so it cannot read one within a key.
#[test]
fn keys_of_what_packets_were_before_translation() -> Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        let (namespace, mut kernel) = kernel("original")?;
        let (frontends, flows, choices) = (frontends(), flows(), choices());
        let mut ops = vec![table(), chain("c")];
        ops.extend([&frontends, &flows, &choices].map(|set| Op::AddSet(Arc::clone(set))));
        ops.extend(rules(&frontends, &flows, &choices));
        ops.extend([add(&frontends, vec![frontend(family)]), add(&flows, vec![flow(family)])]);
        kernel.commit(&transaction(family, ops.clone()))?;
        let [service, client, pod] = addresses(family);
        let element = format!("{client} . {service} . tcp . 80 timeout 1h : {pod} . 8080");
        nft(&namespace, "-f -", &format!("add element {family} t choices {{ {element} }}"))?;

        let listing = nft(&namespace, "list ruleset", "")?;

        for op in &ops {
            if let Op::AddRule(rule) = op {
                let line = format!("\t\t{}\n", rule.display(family));
                assert!(listing.contains(&line), "no {line} in {listing}");
            }
        }
        let original = format!("ct original {family} daddr . meta l4proto . ct original proto-dst");
        let lines = [
            format!("{original} @frontends"),
            format!("{original} . {family} daddr . th dport @flows drop"),
            format!(
                "{original} @frontends update @choices {{ {family} saddr . {original} timeout 3h : {family} daddr . th dport }}"
            ),
            format!("elements = {{ {client} . {service} . tcp . 80 timeout 1h expires "),
            format!("elements = {{ {service} . tcp . 80 . {pod} . 8080 }}"),
        ];
        for line in lines {
            assert!(listing.contains(&line), "no {line} in {listing}");
        }
    }
    Ok(())
}

/// Nothing of it reaches the kernel, which would say only that an argument is invalid.
#[test]
fn more_than_the_registers_hold() -> Result<()> {
    let (_namespace, mut kernel) = kernel("registers")?;
    let choices = choices();
    let update = Statement::Update {
        key: vec![SourceAddress, OriginalDestinationAddress, Protocol, OriginalDestinationPort],
        data: vec![DestinationAddress, DestinationPort, DestinationPort, DestinationPort],
        map: Arc::clone(&choices),
        timeout: NonZeroU32::MIN,
    };
    let ops = vec![table(), chain("c"), Op::AddSet(choices), rule(vec![update])];
    let error = kernel.commit(&transaction(Family::Ip6, ops)).unwrap_err().to_string();
    assert!(error.contains("the kernel's registers, which have 64 bytes"), "{error}");
    Ok(())
}

fn rules(frontends: &Arc<Set>, flows: &Arc<Set>, choices: &Arc<Set>) -> Vec<Op> {
    let original = vec![OriginalDestinationAddress, Protocol, OriginalDestinationPort];
    let flow = [original.clone(), vec![DestinationAddress, DestinationPort]].concat();
    let is_frontend = || Statement::InSet { key: original.clone(), set: Arc::clone(frontends) };
    let statements = [
        vec![is_frontend()],
        vec![Statement::InSet { key: flow, set: Arc::clone(flows) }, Statement::Verdict(Verdict::Drop)],
        vec![
            is_frontend(),
            Statement::Update {
                key: [vec![SourceAddress], original.clone()].concat(),
                data: vec![DestinationAddress, DestinationPort],
                map: Arc::clone(choices),
                timeout: NonZeroU32::new(10_800).unwrap(),
            },
        ],
    ];
    statements.map(rule).into()
}

fn rule(statements: Vec<Statement>) -> Op {
    Op::AddRule(Rule { chain: name("c"), statements, comment: None })
}

fn frontends() -> Arc<Set> {
    common::set("frontends", &[Field::Address, Field::Protocol, Field::Port], None)
}

fn flows() -> Arc<Set> {
    common::set("flows", &[Field::Address, Field::Protocol, Field::Port, Field::Address, Field::Port], None)
}

fn frontend(family: Family) -> Element {
    let [service, ..] = addresses(family);
    let key = Words::build().address(service).protocol(6).port(80).finish();
    Element { key, data: Data::None, comment: None }
}

fn flow(family: Family) -> Element {
    let [service, _, pod] = addresses(family);
    let key = Words::build().address(service).protocol(6).port(80).address(pod).port(8080).finish();
    Element { key, data: Data::None, comment: None }
}

/// Of a Service, a client and a pod.
fn addresses(family: Family) -> [IpAddr; 3] {
    let texts = match family {
        Family::Ip => ["10.96.0.1", "192.0.2.7", "10.244.1.5"],
        Family::Ip6 => ["fd00:10:96::1", "2001:db8::7", "fd00:10:244:1::5"],
    };
    texts.map(|text| text.parse().unwrap())
}
