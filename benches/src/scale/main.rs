//! `make bench`: what many Services cost, from the start of the process to its idle hours, next to kube-proxy's layout.
//!
//! Of each size, two things are measured: the library that turns lists and changes into rules, and the whole process with an API
//! server, which is the fake one of the tests and takes CPU time beside it. The sides take turns within a round, each in a
//! network namespace of its own, and the library and `nft` in processes of their own; what is reported is the median of the
//! rounds. Writes `target/bench/scale.json` and two plots, and prints tables and what is required of the product next to what was
//! seen. With numbers of Services as arguments it measures only these, with `--shapes` only other shapes than ten endpoints each.

mod figures;
mod kube_proxy;
mod library;
mod node;
mod plots;
mod process;
mod quiet;
mod report;

use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use benches::Requirement;
use serde::Serialize;
use testing::netns::Namespace;
use testing::scale::Scale;

use figures::Figures;
use library::CHANGES;
use process::Process;

const ENDPOINTS: u32 = 10;
const SIZES: [u32; 4] = [1_000, 3_000, 10_000, 30_000];
/// kube-proxy's shape takes the kernel a time that grows with the square of the Services: minutes beyond this.
const LARGEST_FOR_KUBE_PROXY: u32 = 10_000;
const ROUNDS: usize = 5;
const PATH: &str = "target/bench/scale.json";

/// Which ruleset is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Shape {
    Slipstream,
    /// The same with session affinity for every tenth Service and a load balancer with source ranges for every twentieth.
    Mixed,
    KubeProxy,
}

/// What the library costs with so many Services, or `nft` with those of kube-proxy's shape.
#[derive(Clone, Debug, Serialize)]
struct Library {
    services: u32,
    shape: Shape,
    #[serde(flatten)]
    figures: Figures,
}

/// All that was measured.
#[derive(Debug, Default, Serialize)]
struct Results {
    library: Vec<Library>,
    process: Vec<Process>,
    other_shapes: Vec<Process>,
    requirements: Vec<Requirement>,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Slipstream, Self::Mixed, Self::KubeProxy];

    const fn name(self) -> &'static str {
        match self {
            Self::Slipstream => "Slipstream",
            Self::Mixed => "Slipstream, some with affinity and source ranges",
            Self::KubeProxy => "kube-proxy 1.36",
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--one", shape, services] => one(shape, services.parse()?),
        ["--shapes"] => all(&[], &other_shapes()),
        [] => all(&SIZES, &other_shapes()),
        sizes => {
            let sizes = sizes.iter().map(|size| size.parse()).collect::<Result<Vec<_>, _>>();
            all(&sizes.context("give numbers of Services, or nothing to measure all there is")?, &[])
        }
    }
}

/// Measures one case in this process and prints the figures.
fn one(shape: &str, services: u32) -> Result<()> {
    let shape = Shape::ALL.into_iter().find(|known| known.name() == shape).context("no such shape")?;
    let figures = Namespace::new("bench")?.run(|| match shape {
        Shape::Slipstream => library::measure(Scale::new(services + CHANGES, ENDPOINTS), services),
        Shape::Mixed => library::measure(Scale::new(services + CHANGES, ENDPOINTS).mixed(), services),
        Shape::KubeProxy => kube_proxy::measure(services, ENDPOINTS),
    })?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// Names, Services, and how many there are.
type OtherShape = (&'static str, Scale, u32);

fn other_shapes() -> [OtherShape; 4] {
    let in_slices = |services, endpoints| Scale::new(services, endpoints).in_slices_of(250);
    [
        ("5,000 × 50", in_slices(5_000, 50), 5_000),
        ("1 × 5,000", in_slices(1, 5_000), 1),
        ("45,000 × 1", in_slices(45_000, 1), 45_000),
        ("10,000 × 10, dual-stack", in_slices(10_000, 10).dual_stack(), 10_000),
    ]
}

fn all(sizes: &[u32], other_shapes: &[OtherShape]) -> Result<()> {
    let mut results = Results::default();
    for services in sizes {
        eprintln!("{services} × {ENDPOINTS} ...");
        measure(*services, &mut results)?;
    }
    for (name, scale, services) in other_shapes {
        eprintln!("{name} ...");
        results.other_shapes.push(process::briefly(name, *scale, *services)?);
    }
    results.requirements = report::requirements(&results);
    fs::create_dir_all("target/bench")?;
    fs::write(PATH, serde_json::to_string_pretty(&results)? + "\n").with_context(|| format!("cannot write {PATH}"))?;
    println!("written: {PATH}");
    plots::draw(&results.library)?;
    report::print(&results);
    Ok(())
}

/// Measures the library, kube-proxy's shape and the process, in turns.
fn measure(services: u32, results: &mut Results) -> Result<()> {
    let shapes =
        Shape::ALL.into_iter().filter(|shape| *shape != Shape::KubeProxy || services <= LARGEST_FOR_KUBE_PROXY);
    let mut rounds: Vec<_> = shapes.map(|shape| (shape, Vec::new())).collect();
    let bench = process::Bench::new(Scale::new(services, ENDPOINTS), services)?;
    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        starts.push(bench.cold_start()?);
        for (shape, figures) in &mut rounds {
            figures.push(in_child(*shape, services)?);
        }
    }
    let library =
        rounds.into_iter().map(|(shape, figures)| Library { services, shape, figures: Figures::median(&figures) });
    results.library.extend(library);
    let name = format!("{} × {ENDPOINTS}", report::thousands(f64::from(services)));
    results.process.push(bench.measure(&name, &starts)?);
    Ok(())
}

fn in_child(shape: Shape, services: u32) -> Result<Figures> {
    quiet::wait()?;
    let output = Command::new(env::current_exe()?)
        .args(["--one", shape.name(), &services.to_string()])
        .output()
        .context("cannot start the measuring process")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "measuring {} with {services} Services failed: {errors}", shape.name());
    serde_json::from_slice(&output.stdout).context("the measuring process printed something else than figures")
}
