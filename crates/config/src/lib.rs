//! KubeProxyConfiguration: types, defaults, validation.
