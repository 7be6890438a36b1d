//! placeholder
/// x
pub struct Packet;
/// x
pub struct Tracer;
/// x
pub struct Fate;
