//! A datagram of nf_tables.
#![no_main]

libfuzzer_sys::fuzz_target!(|datagram: &[u8]| netlink::fuzz::nf_tables(datagram));
