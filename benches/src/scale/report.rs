//! What was seen, as the tables of README, and what is required.

use benches::{Bound, Requirement};

use crate::process::{Later, Process};
use crate::{Library, Results, Shape};

/// What is required of the process with so many Services with 10 endpoints each, and on a quiet machine aimed at.
struct Limits {
    services: u32,
    /// Of the same at 1,000 Services.
    change_p50: f64,
    change_p99: Option<f64>,
    busy_cpu_percent: f64,
    peak_rss_mib: f64,
    aimed_lists_to_commit_ms: f64,
}

const LIMITS: [Limits; 2] = [
    Limits {
        services: 10_000,
        change_p50: 2.0,
        change_p99: Some(4.0),
        busy_cpu_percent: 5.0,
        peak_rss_mib: 64.0,
        aimed_lists_to_commit_ms: 400.0,
    },
    Limits {
        services: 30_000,
        change_p50: 4.0,
        change_p99: None,
        busy_cpu_percent: 8.0,
        peak_rss_mib: 160.0,
        aimed_lists_to_commit_ms: 1_500.0,
    },
];

/// For how long others may wait for a commit.
const LONGEST_COMMIT_MS: f64 = 500.0;

pub(crate) fn print(results: &Results) {
    println!("\n| Services × 10 endpoints | layout | cold sync | kernel | change p50 | kernel | change p99 | RSS |");
    println!("|---|---|---|---|---|---|---|---|");
    results.library.iter().for_each(print_library);
    println!(
        "\n| Services × endpoints | start | lists complete to commit | kernel | longest commit | change p50 | p99 | RSS |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    results.process.iter().chain(&results.other_shapes).for_each(print_process);
    println!(
        "\n| Services × endpoints | cold start | unchanged restart | idle | 100 changes/s | RSS after that | others wait |"
    );
    println!("|---|---|---|---|---|---|---|");
    results.process.iter().for_each(print_later);
    println!("\nWhat is required:");
    results.requirements.iter().for_each(|requirement| println!("{requirement}"));
}

fn print_library(Library { services, shape, figures }: &Library) {
    // Of `nft`, it is counted in hundredths of a second.
    let change_kernel = if *shape == Shape::KubeProxy { "–".to_owned() } else { time(figures.change_kernel_p50_ms) };
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {:.0} MiB |",
        thousands(f64::from(*services)),
        shape.name(),
        time(figures.cold_sync_ms),
        time(figures.cold_sync_kernel_ms),
        time(figures.change_p50_ms),
        change_kernel,
        time(figures.change_p99_ms),
        figures.peak_rss_mib
    );
}

fn print_process(process: &Process) {
    println!(
        "| {} | {} | {} | {} | {} | {} | {} | {:.0} MiB |",
        process.name,
        time(process.start_ms),
        time(process.lists_to_commit_ms),
        time(process.kernel_ms),
        time(process.longest_commit_ms),
        time(process.change_p50_ms),
        time(process.change_p99_ms),
        process.peak_rss_mib
    );
}

fn print_later(process: &Process) {
    let Some(later) = &process.later else { return };
    println!(
        "| {} | {} | {}, {} operations | {:.2} % | {:.1} % | {:.0} MiB | {} |",
        process.name,
        time(process.start_ms),
        time(later.unchanged_restart_ms),
        later.unchanged_restart_operations,
        later.idle_cpu_percent,
        later.busy_cpu_percent,
        later.restarted_peak_rss_mib,
        time(later.longest_wait_ms)
    );
}

/// What is required of the sizes that were measured.
pub(crate) fn requirements(results: &Results) -> Vec<Requirement> {
    let of_size = |services| results.process.iter().find(move |process| process.services == services);
    let mut all = Vec::new();
    for limits in &LIMITS {
        let (Some(least), Some(process)) = (of_size(1_000), of_size(limits.services)) else { continue };
        let kube_proxy =
            results.library.iter().find(|at| at.shape == Shape::KubeProxy && at.services == limits.services);
        all.extend(kube_proxy.map(|kube_proxy| Requirement {
            what: format!("{}: kube-proxy 1.36's layout by nft / lists complete to commit", process.name),
            measured: kube_proxy.figures.cold_sync_ms / process.lists_to_commit_ms,
            bound: Bound::AtLeast(25.0),
        }));
        all.extend(of_process(limits, least, process));
        all.extend(process.later.iter().flat_map(|later| of_later(limits, process, later)));
    }
    let longest = |process: &Process| Requirement {
        what: format!("{}: longest commit, ms", process.name),
        measured: process.longest_commit_ms,
        bound: Bound::AtMost(LONGEST_COMMIT_MS),
    };
    all.extend(results.process.iter().chain(&results.other_shapes).map(longest));
    all
}

fn of_process(limits: &Limits, least: &Process, process: &Process) -> Vec<Requirement> {
    let at_most = at_most(process);
    let mut all = vec![
        at_most("lists complete to commit / kernel", process.lists_to_commit_ms / process.kernel_ms, 1.5),
        at_most("start / lists complete to commit", process.start_ms / process.lists_to_commit_ms, 4.0),
        at_most("change p50 / at 1,000", process.change_p50_ms / least.change_p50_ms, limits.change_p50),
        at_most("lists complete to commit, ms (aim)", process.lists_to_commit_ms, limits.aimed_lists_to_commit_ms),
    ];
    if let Some(limit) = limits.change_p99 {
        all.push(at_most("change p99 / at 1,000", process.change_p99_ms / least.change_p99_ms, limit));
        all.push(at_most("start, ms (aim)", process.start_ms, 1_500.0));
        all.push(at_most("change p50, ms (aim)", process.change_p50_ms, 1.5));
        all.push(at_most("change p99, ms (aim)", process.change_p99_ms, 5.0));
    }
    all
}

fn of_later(limits: &Limits, process: &Process, later: &Later) -> Vec<Requirement> {
    let at_most = at_most(process);
    let peak = process.peak_rss_mib.max(later.restarted_peak_rss_mib);
    vec![
        at_most("unchanged restart / start", later.unchanged_restart_ms / process.start_ms, 1.0),
        at_most("unchanged restart, operations", later.unchanged_restart_operations as f64, 0.0),
        at_most("100 changes/s, % of a CPU", later.busy_cpu_percent, limits.busy_cpu_percent),
        at_most("idle, % of a CPU", later.idle_cpu_percent, 0.2),
        at_most("peak RSS, MiB", peak, limits.peak_rss_mib),
    ]
}

fn at_most(process: &Process) -> impl Fn(&str, f64, f64) -> Requirement {
    |what, measured, limit| Requirement {
        what: format!("{}: {what}", process.name),
        measured,
        bound: Bound::AtMost(limit),
    }
}

/// Milliseconds, in a unit that leaves two digits at least, where there are some.
fn time(milliseconds: f64) -> String {
    match milliseconds {
        less if less < 1.0 => format!("{:.0} µs", less * 1e3),
        few if few < 10.0 => format!("{few:.1} ms"),
        many => format!("{} ms", thousands(many)),
    }
}

/// A whole number with commas.
pub(crate) fn thousands(number: f64) -> String {
    let number = number.round() as u64;
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}
