//! Shows Services at work on a made-up node: the real kube-proxy, the kernel's nftables, real sockets. Needs root.
//!
//! Nothing outside of the network namespaces that it makes is touched; they vanish with it. Exits with 0 only if
//! everything came as expected.

mod interrupt;
mod report;
mod stage;
mod steps;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use report::Report;
use stage::Stage;

/// Services at work on a made-up node: network namespaces, real packets.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// The directory with the manifests that the proxy runs on; it works on a copy
    #[arg(long, value_name = "DIR", default_value = "config/demo")]
    manifests: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::to_stdout();
    match demo(&arguments, &mut report) {
        Ok(()) if report.all_passed() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\ndemo: cannot go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut stage = Stage::set_up(&arguments.manifests)?;
    interrupt::leave_nothing_behind(stage.proxy.directory().to_owned())?;
    stage.introduce(report);
    let outcome = steps::all(&mut stage, report);
    if outcome.is_err() || !report.all_passed() {
        stage.proxy.keep_files();
        report.trouble(&stage.proxy.log_tail(), stage.proxy.log_path());
    }
    outcome?;
    report.summary();
    Ok(())
}
