//! Constants of conntrack's interface, by their names in include/uapi/linux/netfilter/nfnetlink_conntrack.h.

/// Message types, with the number of the subsystem (`NFNL_SUBSYS_CTNETLINK`) in the upper byte.
pub(super) const IPCTNL_MSG_CT_NEW: u16 = 1 << 8;
pub(super) const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;
pub(super) const IPCTNL_MSG_CT_DELETE: u16 = 1 << 8 | 2;
pub(super) const IPCTNL_MSG_CT_GET_STATS: u16 = 1 << 8 | 5;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_ZONE: u16 = 18;
pub(super) const CTA_FILTER: u16 = 25;
pub(super) const CTA_STATUS_MASK: u16 = 26;

pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
pub(super) const CTA_TUPLE_ZONE: u16 = 3;

pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;

pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;

pub(super) const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// "Of this protocol": `CTA_FILTER_F_CTA_PROTO_NUM` (net/netfilter/nf_internals.h).
pub(super) const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;

/// What was listed changed meanwhile (include/uapi/linux/netlink.h).
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
