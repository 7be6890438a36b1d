//! The program as a whole, in a network namespace of its own. These tests need root, `ip`, `nft`, `iptables`, `ipset` and `setpriv`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

mod api;
mod cleanup;
mod command_line;
mod directory;
mod effective;
mod events;
mod exposure;
mod features;
mod hostile;
mod http;
mod initialize;
mod node;
mod process;
mod refusals;
mod reload;
