//! Services, endpoint slices and node facts as domain types, and the rules that follow from them alone.
//!
//! Sources (the API server, a directory of manifests) parse what they read into these types and send [`Update`]s; one
//! [`State`] takes them in and remembers which Services they touched. Nothing here does I/O.

mod address;
mod endpoints;
mod names;
mod node;
mod select;
mod service;
mod state;

pub use address::{Family, ParseAddressError, PerFamily, parse_address, parse_prefix};
pub use endpoints::{Endpoint, EndpointSlice, Hints, NodeHint, PortEndpoint, SliceName, SlicePort};
pub use names::{PortNumber, Protocol, ServiceName, ServicePortName};
pub use node::{Node, NodeStatus};
pub use select::{Selection, select};
pub use service::{Service, ServicePort, TrafficPolicy};
pub use state::{Changes, Kind, ServiceCidr, State, Update};
