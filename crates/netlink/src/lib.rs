//! Commits transactions to the kernel's nf_tables through libnftnl and libmnl.
