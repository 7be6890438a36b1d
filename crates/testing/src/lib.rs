//! Network namespaces, a fake API server and generators for tests.
