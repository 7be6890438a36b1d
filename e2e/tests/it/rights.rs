//! What the proxy may do, while it does everything that the other tests see.

use std::fs;

use crate::repair::{WEB, world};

#[test]
fn net_admin_is_all_it_takes() {
    let world = world();
    let status = fs::read_to_string(format!("/proc/{}/status", world.proxy.process().unwrap())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
    };
    // Bit 12 is CAP_NET_ADMIN (include/uapi/linux/capability.h).
    let (all, none) = (format!("{:016x}", 1 << 12), format!("{:016x}", 0));
    for (set, wanted) in [("Prm", &all), ("Eff", &all), ("Bnd", &all), ("Inh", &none), ("Amb", &none)] {
        assert_eq!(field(&format!("Cap{set}:")), wanted, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    world.check_from_outside(&WEB);
}
