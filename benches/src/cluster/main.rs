//! `make bench`: one node's share of a cluster of 5,000: what its watches cost the API server, and whether all nodes come back to it
//! at once after it failed.
//!
//! Writes `target/bench/cluster.json` and a plot, and prints tables.

mod node;
mod objects;
mod plot;
mod stampede;

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;

use self::node::{Phase, Share};
use self::stampede::{Comeback, FAULTS};

const NODES: usize = 5_000;
/// Services, endpoint slices, ServiceCIDRs, the Node: what kube-proxy watches as well (contract §3.10).
const WATCHES: usize = 4;

fn main() -> Result<()> {
    let comebacks = FAULTS.into_iter().map(stampede::simulate).collect::<Result<Vec<_>>>()?;
    print_comebacks(&comebacks);
    fs::create_dir_all("target/bench")?;
    plot::draw(&comebacks)?;
    let share = node::measure()?;
    print_share(&share);
    let results = json!({
        "nodes": NODES,
        "node": share.to_json(),
        "comebacks": comebacks.iter().map(Comeback::to_json).collect::<Vec<_>>(),
    });
    let path = "target/bench/cluster.json";
    fs::write(path, serde_json::to_string_pretty(&results)? + "\n").with_context(|| format!("cannot write {path}"))?;
    println!("written: {path}");
    Ok(())
}

fn print_comebacks(comebacks: &[Comeback]) {
    println!("{NODES} nodes with {WATCHES} watches each, whose API server fails all at once");
    println!(
        "| the server | requests | most in a second | mean until 99 % are back | most lists | 50 % back after | 99 % |"
    );
    println!("|---|---|---|---|---|---|---|");
    for comeback in comebacks {
        println!(
            "| {} | {} | {} | {:.0} | {} | {:.1} s | {:.1} s |",
            comeback.fault.name,
            comeback.by_second.iter().sum::<usize>(),
            comeback.most_in_a_second(),
            comeback.mean_in_a_second(),
            comeback.most_lists_in_a_second(),
            comeback.half.as_secs_f64(),
            comeback.most.as_secs_f64(),
        );
    }
}

fn print_share(share: &Share) {
    println!("one node, which has {} connections, and {NODES} of them", share.connections);
    println!("| | time | lists | bytes | watches | bytes | other requests | {NODES} nodes: requests | bytes |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for Phase { name, goes_on, asked } in &share.phases {
        let requests = (asked.lists + asked.watches + asked.others) as f64 * NODES as f64;
        let bytes = (asked.list_bytes + asked.watch_bytes) as f64 * NODES as f64;
        let seconds = asked.time.as_secs_f64();
        let all = if *goes_on {
            format!("{:.0}/s | {}/s", requests / seconds, size(bytes / seconds))
        } else {
            format!("{requests:.0} | {}", size(bytes))
        };
        println!(
            "| {name} | {seconds:.0} s | {} | {} | {} | {} | {} | {all} |",
            asked.lists,
            size(asked.list_bytes as f64),
            asked.watches,
            size(asked.watch_bytes as f64),
            asked.others,
        );
    }
}

/// In units of a thousand.
fn size(bytes: f64) -> String {
    match bytes {
        small if small < 1e6 => format!("{:.0} kB", small / 1e3),
        some if some < 1e9 => format!("{:.1} MB", some / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}
