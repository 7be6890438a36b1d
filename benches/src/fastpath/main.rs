//! `make bench-fastpath`: what the fast path gains, on Debian's kernels in a VM.
//!
//! Without arguments this starts a VM twice for each kernel, in which it runs itself: once to time traffic, once to count
//! instructions. Writes `target/bench/fastpath.json` and two plots, and prints what is required of the product next to what was seen.
//! With `--draw` it only draws the plots anew.

mod counted;
mod node;
mod plot;
mod report;
mod timed;
mod traffic;

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use report::Report;

/// The one that the report is about, and the other.
const KERNELS: [&str; 2] = ["6.12", "6.1"];

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => all(),
        ["--timed"] => finish(&timed::measure()?),
        ["--draw"] => plot::draw(&report::read()?["instructions"]),
        ["--counted"] => finish(&counted::measure()?),
        other => bail!("unknown arguments {other:?}: run it without any"),
    }
}

/// Prints figures and ends, with servers still at work.
fn finish(figures: &Value) -> ! {
    println!("{figures}");
    process::exit(0);
}

fn all() -> Result<()> {
    let reports = KERNELS.map(|kernel| {
        println!("kernel {kernel}: traffic");
        let rounds = in_guest(kernel, "--timed")?;
        println!("kernel {kernel}: instructions");
        let instructions = in_guest(kernel, "--counted")?;
        Report::new(kernel, &rounds, instructions)
    });
    let reports = reports.into_iter().collect::<Result<Vec<_>>>()?;
    report::write(&reports)?;
    plot::draw(&reports[0].instructions)?;
    reports.iter().for_each(Report::print);
    Ok(())
}

/// The figures that this program prints in a VM.
fn in_guest(kernel: &str, what: &str) -> Result<Value> {
    let mut command = Command::new("vm/run");
    command.arg(kernel).arg(env::current_exe()?).arg(what).stdout(Stdio::piped());
    if what == "--counted" {
        command.env("VM_COUNT", "1");
    }
    let mut guest = command.spawn().context("cannot run vm/run: is this the project's directory?")?;
    let mut figures = None;
    for line in BufReader::new(guest.stdout.take().context("it has no output")?).lines() {
        let line = line?;
        if line.starts_with('{') {
            figures = Some(serde_json::from_str(&line)?);
        } else {
            println!("  {line}");
        }
    }
    let status = guest.wait()?;
    ensure!(status.success(), "vm/run {kernel} ended with {status}");
    figures.context("the guest printed no figures")
}
