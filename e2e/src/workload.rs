//! Pods that serve.

use anyhow::Result;
use model::{Family, Protocol};
use testing::netns::{Cluster, Pod};
use testing::traffic::Echo;

use crate::probe::Host;

/// A pod with servers, which introduce themselves as `NAME:PORT`. They stop when it is dropped.
#[derive(Debug)]
pub struct Workload {
    name: String,
    pod: Pod,
    _servers: Vec<Echo>,
}

impl Workload {
    /// Makes a pod that listens on these ports, in both families.
    ///
    /// # Errors
    /// The cluster is full, or a port is given twice.
    pub fn start(cluster: &Cluster, name: &str, ports: &[(Protocol, u16)]) -> Result<Self> {
        Self::on(cluster.pod(name)?, name, ports)
    }

    /// Listens on these ports of a pod, in both families.
    ///
    /// # Errors
    /// A port is given twice.
    pub fn on(pod: Pod, name: &str, ports: &[(Protocol, u16)]) -> Result<Self> {
        let mut servers = Vec::new();
        for family in Family::ALL {
            for (protocol, port) in ports {
                let serve = match protocol {
                    Protocol::Tcp => Echo::tcp,
                    Protocol::Udp => Echo::udp,
                    Protocol::Sctp => Echo::sctp,
                };
                servers.push(serve(&pod.namespace, &format!("{name}:{port}"), (pod.address(family), *port).into())?);
            }
        }
        Ok(Self { name: name.to_owned(), pod, _servers: servers })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace and addresses.
    pub const fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Itself as a client.
    pub fn host(&self) -> Host<'_> {
        Host::pod(&self.name, &self.pod)
    }
}
