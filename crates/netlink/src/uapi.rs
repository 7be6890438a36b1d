//! Constants of the kernel's interface that the `libc` crate does not have, by their names in
//! include/uapi/linux/netfilter/nf_tables.h, and those of `nft`'s annotations.

pub(crate) const NFTA_TABLE_NAME: u16 = 1;
pub(crate) const NFTA_TABLE_FLAGS: u16 = 2;
pub(crate) const NFTA_TABLE_USERDATA: u16 = 6;
pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
pub(crate) const NFTA_CHAIN_FLAGS: u16 = 10;
pub(crate) const NFTA_CHAIN_USERDATA: u16 = 12;
pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;

pub(crate) const NFTA_RULE_TABLE: u16 = 1;
pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(crate) const NFTA_RULE_USERDATA: u16 = 7;

pub(crate) const NFTA_SET_TABLE: u16 = 1;
pub(crate) const NFTA_SET_NAME: u16 = 2;
pub(crate) const NFTA_SET_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
pub(crate) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(crate) const NFTA_SET_DATA_LEN: u16 = 7;
pub(crate) const NFTA_SET_DESC: u16 = 9;
pub(crate) const NFTA_SET_ID: u16 = 10;
pub(crate) const NFTA_SET_USERDATA: u16 = 13;

pub(crate) const NFTA_SET_DESC_SIZE: u16 = 1;

pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;

pub(crate) const NFTA_LIST_ELEM: u16 = 1;

pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(crate) const NFTA_SET_ELEM_USERDATA: u16 = 6;

pub(crate) const NFTA_DATA_VALUE: u16 = 1;
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;

pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;

pub(crate) const NFTA_GEN_ID: u16 = 1;
pub(crate) const NFTA_GEN_PROC_PID: u16 = 2;
pub(crate) const NFTA_GEN_PROC_NAME: u16 = 3;

pub(crate) const NFT_MSG_NEWFLOWTABLE: libc::c_int = 22;
pub(crate) const NFT_MSG_GETFLOWTABLE: libc::c_int = 23;
pub(crate) const NFT_MSG_DELFLOWTABLE: libc::c_int = 24;
pub(crate) const NFTA_FLOWTABLE_TABLE: u16 = 1;
pub(crate) const NFTA_FLOWTABLE_NAME: u16 = 2;
pub(crate) const NFTA_FLOWTABLE_HOOK: u16 = 3;
pub(crate) const NFTA_FLOWTABLE_FLAGS: u16 = 7;
pub(crate) const NFTA_FLOWTABLE_HOOK_NUM: u16 = 1;
pub(crate) const NFTA_FLOWTABLE_HOOK_PRIORITY: u16 = 2;
pub(crate) const NFTA_FLOWTABLE_HOOK_DEVS: u16 = 3;
/// Connections in it are counted as others are.
pub(crate) const NFT_FLOWTABLE_COUNTER: u32 = 2;
pub(crate) const NFTA_DEVICE_NAME: u16 = 1;
/// Where packets come in (include/uapi/linux/netfilter.h).
pub(crate) const NF_NETDEV_INGRESS: u32 = 0;

pub(crate) const NFTA_OBJ_TABLE: u16 = 1;
pub(crate) const NFTA_OBJ_NAME: u16 = 2;
pub(crate) const NFTA_OBJ_TYPE: u16 = 3;
pub(crate) const NFTA_OBJ_DATA: u16 = 4;
pub(crate) const NFT_OBJECT_COUNTER: u32 = 1;
pub(crate) const NFTA_COUNTER_PACKETS: u16 = 2;

/// The table is switched off.
pub(crate) const NFT_TABLE_F_DORMANT: u32 = 1;
/// The chain belongs to a rule, and has a name made up by the kernel.
pub(crate) const NFT_CHAIN_BINDING: u32 = 4;

/// The data type of a verdict map.
pub(crate) const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

pub(crate) const NFTA_EXPR_NAME: u16 = 1;
pub(crate) const NFTA_EXPR_DATA: u16 = 2;

pub(crate) const NFTA_IMMEDIATE_DATA: u16 = 2;

pub(crate) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
pub(crate) const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
pub(crate) const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
pub(crate) const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
pub(crate) const NFTA_NAT_FLAGS: u16 = 7;

/// How many bytes of annotations an object may have.
pub(crate) const NFT_USERDATA_MAXLEN: usize = 256;

/// How many expressions a rule may have (`NFT_RULE_MAXEXPRS`, net/netfilter/nf_tables_api.c).
pub(crate) const NFT_RULE_MAXEXPRS: usize = 128;

/// Flags of an `fib` expression, and its result.
pub(crate) const NFTA_FIB_F_SADDR: u32 = 1;
pub(crate) const NFTA_FIB_F_DADDR: u32 = 2;
pub(crate) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;

/// Flags of a translation that its registers imply (include/uapi/linux/netfilter/nf_nat.h).
pub(crate) const NF_NAT_RANGE_MAP_IPS: u32 = 1 << 0;
pub(crate) const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 1 << 1;
/// `fully-random` (include/uapi/linux/netfilter/nf_nat.h).
pub(crate) const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;

/// `ct state new`: `NF_CT_STATE_BIT(IP_CT_NEW)` (include/uapi/linux/netfilter/nf_conntrack_common.h).
pub(crate) const CT_STATE_NEW: u32 = 1 << 3;
/// `ct state established`: `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`, same file.
pub(crate) const CT_STATE_ESTABLISHED: u32 = 1 << 1;
/// The connection is in a flowtable: `IPS_OFFLOAD`, same file.
pub(crate) const IPS_OFFLOAD: u32 = 1 << 14;
/// `ct status dnat`: `IPS_DST_NAT`, same file.
pub(crate) const IPS_DST_NAT: u32 = 1 << 5;

/// ICMP and ICMPv6 codes of "port unreachable".
pub(crate) const ICMP_PORT_UNREACH: u8 = 3;
pub(crate) const ICMPV6_PORT_UNREACH: u8 = 4;

/// Flags of an answer, and the attributes that may follow one (include/uapi/linux/netlink.h).
pub(crate) const NLM_F_CAPPED: u16 = 0x100;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLMSGERR_ATTR_OFFS: u16 = 2;
pub(crate) const NLA_F_NESTED: u16 = 1 << 15;

/// A comment, among the annotations of a table, chain, rule or element (libnftnl's udata.h).
pub(crate) const UDATA_COMMENT: u8 = 0;
/// Annotations of sets, same file.
pub(crate) const UDATA_SET_KEYBYTEORDER: u8 = 0;
pub(crate) const UDATA_SET_DATABYTEORDER: u8 = 1;
pub(crate) const UDATA_SET_KEY_TYPEOF: u8 = 3;
pub(crate) const UDATA_SET_DATA_TYPEOF: u8 = 4;
pub(crate) const UDATA_SET_DATA_INTERVAL: u8 = 6;
pub(crate) const UDATA_SET_COMMENT: u8 = 7;

/// The direction of a connection's first packet (include/uapi/linux/netfilter/nf_conntrack_tuple_common.h).
pub(crate) const IP_CT_DIR_ORIGINAL: u8 = 0;
