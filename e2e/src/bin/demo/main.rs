//! Shows Services at work on a made-up node.
fn main() {}
