//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{ArgAction, Parser};
use config::{Config, Hostname, LogFormat, Warning};

/// Programs this node's nftables so that Services reach their endpoints.
#[derive(Clone, Debug, Default, Parser, PartialEq, Eq)]
#[command(
    name = "kube-proxy",
    display_name = "Slipstream",
    version,
    disable_version_flag = true,
    after_help = "Without --config, the defaults of KubeProxyConfiguration hold. Without --manifest-dir, the API server \
                  of the kubeconfig is watched, or, without that either, the one of the cluster this pod runs in."
)]
pub struct Flags {
    /// A file with a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Take Services, EndpointSlices and the Node from the YAML files in this directory, and follow their changes; no API
    /// server is asked
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifest_dir: Option<PathBuf>,

    /// The name of this machine's Node object, if it is not the host name
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<Hostname>,

    /// How to reach the API server; ignored with --config, where clientConnection.kubeconfig says it
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// How much to log: 0 and 1 what an operator needs, 2 and 3 what is being done, 4 everything
    #[arg(short, long = "v", value_name = "LEVEL")]
    pub verbosity: Option<u32>,

    /// The form of log lines: text or json
    #[arg(long, value_name = "FORMAT")]
    pub logging_format: Option<LogFormat>,

    /// After how many packets a Service connection takes the fast path; 0 switches it off
    #[arg(long, value_name = "PACKETS")]
    pub fastpath_packet_threshold: Option<u32>,

    /// Write the configuration that would be used to this file, as YAML, and quit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,

    /// Take away the rules of Slipstream and of every mode of kube-proxy, and quit
    #[arg(long)]
    pub cleanup: bool,

    /// Do only what takes more rights than CAP_NET_ADMIN, and quit
    #[arg(long)]
    pub init_only: bool,

    /// Print version information and quit
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,

    #[arg(hide = true)]
    arguments: Vec<String>,
}

impl Flags {
    /// Parses a command line, whose first item is the name of the program.
    ///
    /// # Errors
    /// A flag is unknown or malformed, or there are arguments, of which kube-proxy takes none. So it is, too, when help or
    /// the version was asked for ([`clap::Error::use_stderr`] is false then): the error is what to print.
    pub fn parse_from_iter(command_line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let flags = Self::try_parse_from(command_line)?;
        if !flags.arguments.is_empty() {
            let message = format!("\"kube-proxy\" does not take any arguments, got {:?}\n", flags.arguments);
            return Err(clap::Error::raw(clap::error::ErrorKind::UnknownArgument, message));
        }
        Ok(flags)
    }

    /// The configuration they ask for: that of the file, or else the defaults, with the flags that win over either.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn configure(&self) -> Result<(Config, Vec<Warning>)> {
        let (mut config, warnings) = match &self.config {
            Some(file) => Config::load(file).context("failed complete")?,
            None => (Config { kubeconfig: self.kubeconfig.clone(), ..Config::default() }, Vec::new()),
        };
        if let Some(name) = &self.hostname_override {
            config.override_hostname(name.clone());
        }
        if let Some(verbosity) = self.verbosity {
            config.override_verbosity(verbosity);
        }
        if let Some(format) = self.logging_format {
            config.override_log_format(format);
        }
        if let Some(threshold) = self.fastpath_packet_threshold {
            config.override_fastpath_packet_threshold(threshold);
        }
        Ok((config, warnings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<Flags, clap::Error> {
        Flags::parse_from_iter(std::iter::once("kube-proxy").chain(flags.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn flags_win_over_defaults() {
        let flags = parse("--hostname-override=Edge-1 --kubeconfig /k -v 3 --logging-format json").unwrap();
        let (config, warnings) = flags.configure().unwrap();
        assert_eq!(config.hostname_override.unwrap().as_str(), "edge-1");
        assert_eq!(config.kubeconfig, Some(PathBuf::from("/k")));
        assert_eq!((config.logging.verbosity, config.logging.format), (3, LogFormat::Json));
        assert_eq!(warnings, []);
        assert_eq!(parse("-v=2").unwrap(), parse("--v=2").unwrap());
    }

    #[test]
    fn a_file_decides_about_the_kubeconfig() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
                    hostnameOverride: from-file\nlogging: {verbosity: 4}\n";
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display();
        let (config, _) = parse(&format!("--config {path} --kubeconfig /k -v 1")).unwrap().configure().unwrap();
        assert_eq!(config.kubeconfig, None);
        assert_eq!(config.hostname_override.unwrap().as_str(), "from-file");
        assert_eq!(config.logging.verbosity, 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let message = |flags: &str| parse(flags).unwrap_err().to_string();
        assert!(message("start now").contains(r#""kube-proxy" does not take any arguments, got ["start", "now"]"#));
        assert!(message("--hostname-override=").contains("empty hostname-override is invalid"));
        assert!(message("--logging-format xml").contains("use text or json"));
        assert!(message("--manifest-dir a --kubeconfig b").contains("cannot be used with"));
        let missing = parse("--config /nowhere/config.conf").unwrap().configure().unwrap_err();
        assert!(format!("{missing:#}").contains("/nowhere/config.conf"), "{missing:#}");
    }

    #[test]
    fn the_version_is_one_line() {
        let version = parse("--version").unwrap_err();
        assert!(!version.use_stderr());
        assert_eq!(version.to_string(), format!("Slipstream {}\n", env!("CARGO_PKG_VERSION")));
    }
}
