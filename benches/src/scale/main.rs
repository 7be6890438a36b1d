//! `make bench`: what it costs to program many Services, ours against kube-proxy's shape.
//!
//! Each measurement runs in a process and a network namespace of its own; the sides take turns within a round, and what is
//! reported is the median of the rounds. Writes `target/bench/scale.json` and prints a table.

mod kube_proxy;
mod slipstream;
mod stats;

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testing::scale::Scale;

use slipstream::CHANGES;
use stats::Figures;

const ENDPOINTS: u32 = 10;
const SIZES: [u32; 3] = [1_000, 10_000, 30_000];
/// kube-proxy's shape takes the kernel a time that grows with the square of the Services: minutes beyond this.
const LARGEST_FOR_KUBE_PROXY: u32 = 10_000;
const ROUNDS: usize = 5;

/// Which ruleset is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Slipstream,
    /// The same with session affinity for every tenth Service and a load balancer with source ranges for every twentieth.
    Mixed,
    KubeProxy,
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Slipstream => "slipstream",
            Self::Mixed => "slipstream-mixed",
            Self::KubeProxy => "kube-proxy-1.36",
        }
    }

    fn parse(name: &str) -> Result<Self> {
        let known = [Self::Slipstream, Self::Mixed, Self::KubeProxy];
        known.into_iter().find(|shape| shape.name() == name).with_context(|| format!("no shape is called {name:?}"))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--one", shape, services] => one(Shape::parse(shape)?, services.parse()?),
        [] => all(),
        other => bail!("unknown arguments {other:?}: run it without any"),
    }
}

/// Measures one case in this process and prints the figures.
fn one(shape: Shape, services: u32) -> Result<()> {
    let namespace = testing::netns::Namespace::new("bench")?;
    let figures = namespace.run(|| match shape {
        Shape::Slipstream => slipstream::measure(Scale::new(services + CHANGES, ENDPOINTS), services),
        Shape::Mixed => slipstream::measure(Scale::new(services + CHANGES, ENDPOINTS).mixed(), services),
        Shape::KubeProxy => kube_proxy::measure(services, ENDPOINTS),
    })?;
    println!("{}", figures.to_json());
    Ok(())
}

fn all() -> Result<()> {
    let mut results = Vec::new();
    println!("Services x {ENDPOINTS} endpoints, medians of {ROUNDS} rounds");
    println!("{}", Figures::HEADER);
    for services in SIZES {
        let mut shapes = vec![Shape::Slipstream, Shape::Mixed];
        if services <= LARGEST_FOR_KUBE_PROXY {
            shapes.push(Shape::KubeProxy);
        }
        let mut rounds = vec![Vec::new(); shapes.len()];
        for _ in 0..ROUNDS {
            for (shape, figures) in shapes.iter().zip(&mut rounds) {
                figures.push(in_child(*shape, services)?);
            }
        }
        for (shape, figures) in shapes.iter().zip(rounds) {
            let median = Figures::median(&figures);
            println!("{}", median.row(services, shape.name()));
            results.push(median.to_result(services, ENDPOINTS, shape.name()));
        }
    }
    let path = PathBuf::from("target/bench/scale.json");
    fs::create_dir_all("target/bench")?;
    fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(())
}

fn in_child(shape: Shape, services: u32) -> Result<Figures> {
    let output = Command::new(env::current_exe()?)
        .args(["--one", shape.name(), &services.to_string()])
        .output()
        .context("cannot start the measuring process")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "measuring {} with {services} Services failed: {errors}", shape.name());
    let value: Value = serde_json::from_slice(&output.stdout)?;
    Figures::from_json(&value).context("the measuring process printed something else than figures")
}
