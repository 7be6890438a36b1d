//! The command line: kube-proxy's flags (contract §1.2), and a few of our own.

mod command;
mod settings;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{Args, FromArgMatches as _, Parser};
use config::v1alpha1::{DurationOrNanos, KubeProxyConfiguration, Logging, Quantity, VModule};
use config::{Completed, GoDuration, Hostname, Loaded};

use self::settings::Settings;

/// Programs this node's nftables so that Services reach their endpoints.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kube-proxy",
    disable_version_flag = true,
    styles = Styles::plain(),
    after_help = "With --config, its file counts, and what is listed under \"Without --config\" is ignored. Without \
                  --manifest-dir, the API server of the kubeconfig is watched, or, without that either, the one of the \
                  cluster this pod runs in."
)]
pub struct Flags {
    /// A file with a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1), as YAML or JSON
    #[arg(long, value_name = "FILE", value_parser = command::path)]
    pub config: Option<PathBuf>,

    /// Take Services, EndpointSlices and the Node from the YAML files in this directory, and follow their changes; no API
    /// server is asked
    #[arg(long, value_name = "DIR", value_parser = command::path, conflicts_with_all = ["kubeconfig", "master"])]
    pub manifest_dir: Option<PathBuf>,

    /// The URL of the API server, whatever the kubeconfig says
    #[arg(long, value_name = "URL", default_value = "")]
    pub master: String,

    /// The name of this machine's Node object, if it is not the host name
    #[arg(long, value_name = "NAME", default_value = "")]
    hostname_override: String,

    /// After how many packets a Service connection takes the fast path; 0 switches it off
    #[arg(long, value_name = "PACKETS", default_value_t = 20)]
    fastpath_packet_threshold: i32,

    /// Run nftables also where the configuration says iptables or ipvs
    #[arg(long)]
    force_nftables: bool,

    /// Write the configuration that would be used to this file, as YAML, and quit
    #[arg(long, value_name = "FILE", value_parser = command::path)]
    pub write_config_to: Option<PathBuf>,

    /// Take away the rules of Slipstream and of every mode of kube-proxy, and quit
    #[arg(long)]
    pub cleanup: bool,

    /// Do only what takes more rights than CAP_NET_ADMIN, and quit
    #[arg(long)]
    pub init_only: bool,

    /// Print the version and quit; raw: in all detail; vX.Y.Z: go on under that version, which has to be this one but for what
    /// follows a + or -
    #[arg(long, value_name = "true|false|raw|vX.Y.Z", default_value = "false")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    version: String,

    #[command(flatten)]
    logging: LoggingFlags,

    #[command(flatten)]
    settings: Settings,

    #[arg(hide = true)]
    arguments: Vec<String>,

    /// The names of those that were given.
    #[arg(skip)]
    given: BTreeSet<String>,

    /// All of them, and what they are.
    #[arg(skip)]
    listed: Vec<(String, String)>,
}

/// How to log. Those that are given win over the file.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging; wins over --config")]
struct LoggingFlags {
    /// How much to log: 0 and 1 what an operator needs, 2 and 3 what is being done, 4 everything
    #[arg(short, long, value_name = "LEVEL", default_value_t = 0)]
    v: u32,

    /// The form of log lines: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    logging_format: String,

    /// Ignored: every line is written at once
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    log_flush_frequency: GoDuration,

    /// Ignored: there are no source files of these names
    #[arg(long, value_name = "PATTERN=LEVEL,...", value_delimiter = ',', value_parser = command::vmodule)]
    vmodule: Vec<Option<VModule>>,

    /// Ignored: everything goes to standard error (gate LoggingAlphaOptions)
    #[arg(long)]
    log_text_split_stream: bool,

    /// Ignored: everything goes to standard error (gate LoggingAlphaOptions)
    #[arg(long)]
    log_json_split_stream: bool,

    /// Ignored: nothing is held back (gate LoggingAlphaOptions)
    #[arg(long, value_name = "QUANTITY", default_value = "0")]
    log_text_info_buffer_size: Quantity,

    /// Ignored: nothing is held back (gate LoggingAlphaOptions)
    #[arg(long, value_name = "QUANTITY", default_value = "0")]
    log_json_info_buffer_size: Quantity,
}

impl Flags {
    /// Parses a command line, whose first item is the name of the program.
    ///
    /// # Errors
    /// A flag is unknown or malformed, or there are arguments, of which kube-proxy takes none. So it is, too, when help or
    /// the version was asked for ([`clap::Error::use_stderr`] is false then): the error is what to print.
    pub fn parse_from_iter(command_line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = command::command();
        let matches = command.try_get_matches_from_mut(command_line.into_iter().map(command::with_dashes))?;
        let mut flags = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        // Templates may leave empty ones.
        if flags.arguments.iter().any(|argument| !argument.is_empty()) {
            let message = format!("\"kube-proxy\" does not take any arguments, got {:?}\n", flags.arguments);
            return Err(clap::Error::raw(ErrorKind::UnknownArgument, message));
        }
        command::answer_version(&flags.version)?;
        for path in [&mut flags.config, &mut flags.manifest_dir, &mut flags.write_config_to] {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        (flags.listed, flags.given) = command::list(&command, &matches);
        Ok(flags)
    }

    /// All flags by name, and what they are, given or by default: what `/flagz` shows.
    pub fn listed(&self) -> &[(String, String)] {
        &self.listed
    }

    /// The configuration they ask for, with its defaults: that of the file, or else of the flags, with the flags that win over
    /// either.
    ///
    /// # Errors
    /// The file cannot be used, or what is needed to understand the configuration is wrong.
    pub fn complete(&self) -> Result<Completed> {
        self.completed().context("failed complete")
    }

    fn completed(&self) -> Result<Completed> {
        let (mut written, warnings) = match &self.config {
            Some(file) => KubeProxyConfiguration::read(file)?,
            None => (self.settings.configuration(self.manifest_dir.is_some()), Vec::new()),
        };
        if !self.hostname_override.is_empty() {
            written.hostname_override = self.hostname_override.parse::<Hostname>()?.to_string();
        }
        if self.is_given("fastpath-packet-threshold") {
            written.nftables.fastpath_packet_threshold = Some(self.fastpath_packet_threshold);
        }
        self.merge_logging(&mut written.logging);
        // Who goes back to another mode cleans up with the configuration of that.
        Ok(Completed::new(written, warnings, self.force_nftables || self.cleanup)?)
    }

    /// The configuration they ask for, checked.
    ///
    /// # Errors
    /// As [`Self::complete`], and of what is not valid, all.
    pub fn configure(&self) -> Result<Loaded> {
        self.complete()?.validate().context("failed validate")
    }

    fn merge_logging(&self, written: &mut Logging) {
        let flags = &self.logging;
        if self.is_given("v") {
            written.verbosity = flags.v;
        }
        if self.is_given("logging-format") {
            written.format.clone_from(&flags.logging_format);
        }
        if self.is_given("log-flush-frequency") {
            written.flush_frequency = DurationOrNanos(flags.log_flush_frequency);
        }
        // Where several patterns fit, the first one counts.
        written.vmodule.splice(..0, flags.vmodule.iter().flatten().cloned());
        if self.is_given("log-text-split-stream") {
            written.options.text.split_stream = flags.log_text_split_stream;
        }
        if self.is_given("log-json-split-stream") {
            written.options.json.split_stream = flags.log_json_split_stream;
        }
        if self.is_given("log-text-info-buffer-size") {
            written.options.text.info_buffer_size.clone_from(&flags.log_text_info_buffer_size);
        }
        if self.is_given("log-json-info-buffer-size") {
            written.options.json.info_buffer_size.clone_from(&flags.log_json_info_buffer_size);
        }
    }

    fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }
}
