//! The program `kube-proxy`: command line, logging, exit code.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use config::{Config, LogFormat};
use proxy::Flags;
use telemetry::logging;
use tracing::{error, warn};

fn main() -> ExitCode {
    let flags = match Flags::parse_from_iter(std::env::args_os()) {
        Ok(flags) => flags,
        Err(answer) => return print(&answer),
    };
    match start(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("command failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was asked for, or what is wrong with the command line after how to use it (contract §1.1).
fn print(answer: &clap::Error) -> ExitCode {
    if !answer.use_stderr() {
        print!("{answer}");
        return ExitCode::SUCCESS;
    }
    let usage = Flags::command().render_usage();
    let text = answer.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    eprintln!("{usage}\n\nError: {text}");
    ExitCode::FAILURE
}

fn start(flags: &Flags) -> Result<()> {
    let configured = flags.configure();
    // Before anything is logged, and even if the configuration that would say how is unusable.
    let logging = configured.as_ref().map_or_else(|_| Config::default().logging, |(config, _)| config.logging);
    let format = match logging.format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::init(format, logging.verbosity).context("initialize logging")?;
    let (config, warnings) = configured?;
    for warning in warnings {
        warn!("{warning}");
    }
    // What comes first wins where several are given (contract §1.1).
    if let Some(file) = &flags.write_config_to {
        anyhow::bail!("--write-config-to {} is not there yet", file.display());
    }
    if flags.cleanup {
        return proxy::cleanup(&config);
    }
    // Two threads also on a node with one CPU, so that health checks are answered while rules are compiled.
    let workers = std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let ended = if flags.init_only {
        runtime.block_on(proxy::initialize(flags, &config))
    } else {
        runtime.block_on(proxy::run(flags, &config))
    };
    runtime.shutdown_background();
    ended
}
