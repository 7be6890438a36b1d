//! What a table says, whatever choices were made on the way to it.

use std::collections::{BTreeMap, BTreeSet};

use testing::netns::Namespace;

/// What the tables of both families have programmed, in words that are the same for any two tables that do the same: endpoints of a
/// frontend are numbered in any order, and how many of them are common among ClusterIPs depends on the past (ARCHITECTURE.md).
pub(crate) fn programmed(node: &Namespace) -> BTreeSet<String> {
    let listed = node.sh("nft list table ip kube-proxy && nft list table ip6 kube-proxy").unwrap();
    let mut programmed = BTreeSet::new();
    for table in listed.split("table ").skip(1) {
        let family = table.split_whitespace().next().unwrap_or_default();
        let mut endpoints = BTreeMap::<_, (Vec<&str>, BTreeSet<usize>)>::new();
        for (kind, name, body) in blocks(table) {
            match kind {
                "chain" if !is_choice(name) => {
                    let rules = body.lines().map(str::trim).filter(|rule| !is_choice(rule) && !rule.is_empty());
                    programmed.extend(rules.map(|rule| format!("{family} chain {name}: {rule}")));
                }
                "set" | "map" if name == "affinity" || name.starts_with("affinity-gone-") => {}
                "set" | "map" if name.ends_with("endpoints") && !name.starts_with("no-endpoint") => {
                    for element in elements(body) {
                        let (key, endpoint) = element.split_once(" : ").unwrap_or_default();
                        let (frontend, number) = key.rsplit_once(" . ").unwrap_or_default();
                        let (all, numbers) = endpoints.entry((name, frontend.to_owned())).or_default();
                        all.push(endpoint);
                        numbers.insert(number.parse().unwrap());
                    }
                }
                "set" | "map" => programmed.extend(elements(body).map(|element| {
                    let number =
                        name.strip_prefix("service-ips-").map(|number| match number.strip_prefix("affinity-") {
                            Some(number) => format!("affinity-lb-{number}"),
                            None => format!("lb-{number}"),
                        });
                    match number {
                        Some(chain) => format!("{family} service-ips: {element} : goto {chain}"),
                        None => format!("{family} {name}: {element}"),
                    }
                })),
                _ => {}
            }
        }
        for ((map, frontend), (mut all, numbers)) in endpoints {
            assert!(numbers.iter().copied().eq(0..all.len()), "{map}: {frontend} has the numbers {numbers:?}");
            all.sort_unstable();
            programmed.insert(format!("{family} {map}: {frontend}: {}", all.join(", ")));
        }
    }
    programmed
}

/// Kind, name and body of what is in a table.
fn blocks(table: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    table.split("\n\t}\n").filter_map(|block| {
        // The table itself has a comment.
        let header = block.lines().find(|line| line.starts_with('\t') && line.ends_with(" {"))?;
        let body = block.split_once(header)?.1;
        let (kind, name) = header.trim().strip_suffix(" {")?.split_once(' ')?;
        Some((kind, name, body))
    })
}

fn elements(body: &str) -> impl Iterator<Item = &str> {
    let all = body.split_once("elements = {").map_or("", |(_, rest)| rest.trim_end().trim_end_matches('}'));
    all.split(',').map(str::trim).filter(|element| !element.is_empty())
}

/// Whether a rule, or all rules of a chain, depend on the past: they are for numbers of endpoints that are common, and for timeouts and
/// lengths of prefixes that are in use, or were a while ago. What they look up is compared.
fn is_choice(what: &str) -> bool {
    ["lb-", "@service-ips-", "affinity-check", "source-ranges-check"].iter().any(|part| what.contains(part))
}

/// What there is in the tables of both families, by name: chains, sets and maps. What there is for common numbers of endpoints, and once
/// there was session affinity, stays and is left out.
pub(crate) fn outline(node: &Namespace) -> String {
    let tables = "(nft list table ip kube-proxy && nft list table ip6 kube-proxy)";
    node.sh(&format!(
        "{tables} | grep '{{$' | grep -v -e lb- -e service-ips- -e 'affinity {{' -e affinity-gone- | sort"
    ))
    .unwrap()
}
