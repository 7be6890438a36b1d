//! The compiler through its front door: changes in, packets out.

mod histories;
mod packets;
mod shape;
mod world;
