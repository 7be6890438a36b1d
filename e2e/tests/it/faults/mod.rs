//! What breaks around the proxy, while connections run: it ends in the right rules by itself, and says what happened.

mod kernel;
mod kills;
mod node;
mod server;
mod table;
