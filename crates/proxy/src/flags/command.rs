//! Making clap read a command line as kube-proxy does, which uses another library.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory as _};
use config::KUBERNETES_VERSION;
use config::v1alpha1::VModule;

use super::Flags;

/// The command that the flags are parsed with.
pub(super) fn command() -> Command {
    // Where a flag is repeated, the last one counts.
    Flags::command().args_override_self(true).mut_args(|arg| match arg.get_action() {
        // `--cleanup` is short for `--cleanup=true`; `--cleanup false` is an argument too many.
        ArgAction::SetTrue => {
            let arg = if arg.get_default_values().is_empty() { off_by_default(arg) } else { arg };
            let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).value_name("true|false");
            arg.default_missing_value("true").value_parser(boolean)
        }
        // Whatever follows is the value, even if it looks like a flag: `--oom-score-adj -999`.
        ArgAction::Set | ArgAction::Append if arg.get_long().is_some() => {
            let says_nothing = arg.get_default_values().iter().all(|value| value.is_empty());
            arg.allow_hyphen_values(true).hide_default_value(says_nothing)
        }
        _ => arg,
    })
}

fn off_by_default(arg: Arg) -> Arg {
    arg.default_value("false").hide_default_value(true)
}

/// The same argument with `-` for every `_` in the name of the flag.
pub(super) fn with_dashes(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            (name.replace('_', "-") + value).into()
        }
        _ => argument,
    }
}

/// All flags by name with their values, and the names of those that were given.
pub(super) fn list(command: &Command, matches: &ArgMatches) -> (Vec<(String, String)>, BTreeSet<String>) {
    let mut listed = Vec::new();
    let mut given = BTreeSet::new();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long() else { continue };
        listed.push((name.to_owned(), value(arg, matches)));
        if matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
            && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        {
            given.insert(name.to_owned());
        }
    }
    listed.sort();
    (listed, given)
}

fn value(arg: &Arg, matches: &ArgMatches) -> String {
    let values = || -> Vec<_> {
        let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
        raw.map(|value| value.to_string_lossy()).collect()
    };
    match arg.get_action() {
        ArgAction::Set => values().concat(),
        ArgAction::Append => format!("[{}]", values().join(",")),
        _ => "false".to_owned(),
    }
}

/// Answers `--version`, if that is what it asks for (contract §1.7).
///
/// # Errors
/// What to print, or what is wrong with it.
pub(super) fn answer_version(asked: &str) -> Result<(), clap::Error> {
    let ours = format!("{KUBERNETES_VERSION}+slipstream.{}", env!("CARGO_PKG_VERSION"));
    let answer = match asked {
        "raw" => {
            let (major, minor) = KUBERNETES_VERSION.trim_start_matches('v').split_once('.').unwrap_or_default();
            let minor = minor.split('.').next().unwrap_or_default();
            format!(
                "version.Info{{Major:{major:?}, Minor:{minor:?}, GitVersion:{ours:?}, Platform:\"linux/{}\"}}\n",
                std::env::consts::ARCH
            )
        }
        version if version.starts_with('v') => {
            return match version.split(['-', '+']).next() {
                Some(KUBERNETES_VERSION) => Ok(()),
                _ => Err(usage(format!(
                    "invalid argument {version:?} for --version: must be {KUBERNETES_VERSION}, with or without more after a + or -"
                ))),
            };
        }
        other => match boolean(other) {
            Ok(true) => format!("Kubernetes {ours}\n"),
            Ok(false) => return Ok(()),
            Err(error) => return Err(usage(format!("invalid argument {other:?} for --version: {error}"))),
        },
    };
    Err(clap::Error::raw(ErrorKind::DisplayVersion, answer))
}

fn usage(message: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, message + "\n")
}

/// What Go takes for a boolean.
pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// A path, or nothing, which is as good as not given.
pub(super) fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

/// An IP address, or nothing, which is as good as not given.
pub(super) fn address(text: &str) -> Result<String, &'static str> {
    if text.is_empty() || model::parse_address(text).is_ok() {
        Ok(text.to_owned())
    } else {
        Err("must be an IP address")
    }
}

/// An item of `--feature-gates`, of which empty ones are skipped.
pub(super) fn feature_gate(item: &str) -> Result<Option<(String, bool)>, String> {
    if item.trim().is_empty() {
        return Ok(None);
    }
    let (name, value) =
        item.split_once('=').ok_or_else(|| format!("missing bool value for {item:?}: write {item}=true"))?;
    let value = boolean(value.trim()).map_err(|error| format!("invalid value of {name}: {error}"))?;
    Ok(Some((name.trim().to_owned(), value)))
}

/// An item of `--vmodule`, of which empty ones are skipped.
pub(super) fn vmodule(item: &str) -> Result<Option<VModule>, String> {
    if item.trim().is_empty() {
        return Ok(None);
    }
    let parsed = item.split_once('=').and_then(|(pattern, level)| Some((pattern.trim(), level.trim().parse().ok()?)));
    let (pattern, verbosity) =
        parsed.ok_or_else(|| format!("{item:?} is not pattern=N: write it as in --vmodule=proxy*=4"))?;
    Ok(Some(VModule { file_pattern: pattern.to_owned(), verbosity }))
}
