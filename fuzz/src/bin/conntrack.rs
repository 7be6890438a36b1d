//! A datagram of a list of connections.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| netlink::fuzz::conntrack(datagram));
