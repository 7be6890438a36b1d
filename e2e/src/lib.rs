//! Whole-binary tests over network namespaces, and the demo.
