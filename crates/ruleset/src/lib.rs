//! nf_tables objects and transactions as plain values, a printer and an in-memory kernel.
