//! Our side: model, compiler and netlink, as the proxy runs them.

use std::net::IpAddr;
use std::process;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use compiler::{Compiler, Mark, NodePorts, Offloads, Options, Pods};
use model::{Family, State, Update};
use netlink::{Monitor, NfTables};
use ruleset::Kernel;
use testing::scale::Scale;

use crate::figures::{Figures, Took, peak_rss_mib};

/// How many elements a part of the table has, as in the proxy.
const PART: usize = 20_000;

/// How many changes of each kind are timed.
pub(crate) const CHANGES: u32 = 500;

struct Proxy {
    state: State,
    compiler: Compiler,
    kernel: NfTables,
}

/// Measures so many of the Services of `scale`, which has [`CHANGES`] more.
pub(crate) fn measure(scale: Scale, services: u32) -> Result<Figures> {
    let options = Options {
        family: Family::V4,
        mark: Mark::default(),
        masquerade_all: false,
        pods: Some(Pods::From(model::parse_prefix("10.128.0.0/9")?)),
        node_address: None,
        node_ports: NodePorts::Any,
        offloads: Offloads::ClusterIps,
    };
    // As in the proxy: the kernel has somebody to tell of commits.
    let monitor = Monitor::spawn(compiler::table_name(), drop)?;
    let kernel = NfTables::open()?.known_to(&monitor)?;
    let mut proxy = Proxy { state: State::new(SystemTime::now()), compiler: Compiler::new(options), kernel };
    scale.first(services).updates().for_each(|update| proxy.state.apply(update));
    proxy.state.take_changes();

    let cold_sync = proxy.cold_sync()?;

    let mut changes = Vec::new();
    for n in 0..CHANGES {
        // Spread over all Services, so that no part of a map stays warm.
        let mut slice = scale.slice(n * (services / CHANGES).max(1) % services);
        if let IpAddr::V4(address) = &mut slice.endpoints[0].address {
            *address = (u32::from(*address) | 0x0040_0000).into();
        }
        changes.push(proxy.change([Update::Slice(slice)])?);
        let added = services + n;
        changes.push(proxy.change([Update::Slice(scale.slice(added)), Update::Service(scale.service(added))])?);
    }
    Ok(Figures::new(cold_sync, &changes, peak_rss_mib(process::id())?))
}

impl Proxy {
    /// Makes the table, part by part; the proxy does so, too, and compiles the next one while the kernel takes one.
    fn cold_sync(&mut self) -> Result<Took> {
        let (start, mut kernel) = (Instant::now(), Duration::ZERO);
        let mut part = Some(self.compiler.compile_first(&self.state, PART));
        while let Some(transaction) = part {
            kernel += self.kernel.commit(&transaction)?.kernel;
            part = self.compiler.compile_next(&self.state, PART);
        }
        Ok(Took { whole: start.elapsed(), kernel })
    }

    /// Takes in a change and commits it.
    fn change(&mut self, updates: impl IntoIterator<Item = Update>) -> Result<Took> {
        let start = Instant::now();
        updates.into_iter().for_each(|update| self.state.apply(update));
        let changes = self.state.take_changes();
        let transaction = self.compiler.compile(&self.state, &changes.services);
        let report = self.kernel.commit(&transaction)?;
        Ok(Took { whole: start.elapsed(), kernel: report.kernel })
    }
}
