//! The program `kube-proxy`: command line, logging, exit code.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use config::v1alpha1::KubeProxyConfiguration;
use config::{Completed, Loaded, LogFormat, Logging};
use proxy::Flags;
use telemetry::logging;
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let flags = match Flags::parse_from_iter(std::env::args_os()) {
        Ok(flags) => flags,
        Err(answer) => return print(&answer),
    };
    let ended = start(&flags).inspect_err(|error| error!(err = format_args!("{error:#}"), "command failed"));
    logging::flush();
    if ended.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints what was asked for, or what is wrong with the command line after how to use it (contract §1.1). It does not matter whether
/// anybody reads it to its end.
fn print(answer: &clap::Error) -> ExitCode {
    let text = answer.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    if !answer.use_stderr() {
        drop(io::stdout().lock().write_all(text.as_bytes()));
        return ExitCode::SUCCESS;
    }
    // Advice and the usage follow.
    let mistake = text.lines().next().unwrap_or_default();
    drop(writeln!(io::stderr().lock(), "{}\n\nError: {mistake}", Flags::command().render_usage()));
    ExitCode::FAILURE
}

/// In the order of contract §1.1: each step's mistakes are told before those of the next.
fn start(flags: &Flags) -> Result<()> {
    let completed = flags.complete();
    let asked = completed.as_ref().map_or(Ok(Logging::default()), Completed::logging);
    // What is wrong has to be told somehow.
    start_logging(asked.as_ref().copied().unwrap_or_default())?;
    let completed = completed?;
    if asked.context("initialize logging")?.verbosity >= 1 {
        for (name, value) in flags.listed() {
            info!("FLAG: --{name}={value:?}");
        }
    }
    let loaded = completed.validate().context("failed validate")?;
    run(flags, &loaded).inspect_err(|error| error!(err = format_args!("{error:#}"), "Error running ProxyServer"))
}

/// What comes first wins where several are asked for.
fn run(flags: &Flags, loaded: &Loaded) -> Result<()> {
    let Loaded { config, effective, warnings } = loaded;
    // To clean up takes no configuration, so that none can be odd.
    for warning in warnings.iter().filter(|_| !flags.cleanup) {
        warn!("{warning}");
    }
    if let Some(file) = &flags.write_config_to {
        return write_config(file, effective);
    }
    if flags.cleanup {
        return proxy::cleanup();
    }
    if flags.init_only {
        return proxy::initialize(config);
    }
    // Two threads also on a node with one CPU, so that health checks are answered while rules are compiled.
    let workers = std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let ended = runtime.block_on(proxy::run(flags, loaded));
    runtime.shutdown_background();
    ended
}

fn start_logging(logging: Logging) -> Result<()> {
    let format = match logging.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(format, logging.verbosity).context("initialize logging")
}

/// Writes what is in force to `file` (contract §1.4).
fn write_config(file: &Path, effective: &KubeProxyConfiguration) -> Result<()> {
    let wrong = || format!("cannot write the configuration to {}, as --write-config-to says", file.display());
    std::fs::write(file, effective.to_yaml()).with_context(wrong)?;
    info!(file = %file.display(), "Wrote configuration");
    Ok(())
}
