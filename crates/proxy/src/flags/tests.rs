//! What the flags mean, and what is said of those that mean nothing.

use super::*;

fn parse(flags: &str) -> Result<Flags, clap::Error> {
    Flags::parse_from_iter(std::iter::once("kube-proxy").chain(flags.split_whitespace()).map(OsString::from))
}

#[test]
fn without_flags_the_defaults_hold() {
    let loaded = parse("").unwrap().configure().unwrap();
    assert_eq!(loaded.config, config::Config::default());
}
