//! What conntrack is asked.

use super::{Flow, Flows, uapi};
use crate::attributes::Attributes;
use crate::message::MESSAGE_HEADER;
use crate::uapi::IPS_OFFLOAD;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;

/// The length of `struct nfgenmsg`.
pub(super) const NETFILTER_HEADER: usize = 4;

/// Asks for nothing in particular, to see whether anyone answers.
pub(super) fn probe(message: &mut Vec<u8>, sequence: u32) {
    let flags = REQUEST | libc::NLM_F_ACK as u16;
    put(message, uapi::IPCTNL_MSG_CT_GET_STATS, flags, sequence, libc::AF_UNSPEC as u8, &Attributes::default());
}

/// Asks for all entries of one family, and, where the kernel can tell them apart, of one protocol: since 5.8
/// (`ctnetlink_alloc_filter`, net/netfilter/nf_conntrack_netlink.c). Older kernels do not know the attribute and list the
/// entries of all protocols.
pub(super) fn dump(message: &mut Vec<u8>, sequence: u32, flows: Flows, filtered: bool) {
    let mut attributes = Attributes::default();
    if filtered {
        attributes.nest(uapi::CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(uapi::CTA_TUPLE_PROTO, |transport| transport.put(uapi::CTA_PROTO_NUM, &[flows.protocol]));
        });
        attributes.nest(uapi::CTA_FILTER, |filter| {
            // Unlike all else, in the machine's byte order.
            filter.put(uapi::CTA_FILTER_ORIG_FLAGS, &uapi::CTA_FILTER_F_CTA_PROTO_NUM.to_ne_bytes());
        });
    }
    if flows.offloaded {
        // Since 5.15 (`ctnetlink_filter_match`, same file); older kernels list the others, too.
        attributes.put_u32(uapi::CTA_STATUS, IPS_OFFLOAD);
        attributes.put_u32(uapi::CTA_STATUS_MASK, IPS_OFFLOAD);
    }
    put(message, uapi::IPCTNL_MSG_CT_GET, REQUEST | libc::NLM_F_DUMP as u16, sequence, flows.family(), &attributes);
}

/// Asks to delete this entry and no other. Without a tuple, this would be the request to delete all.
pub(super) fn delete(message: &mut Vec<u8>, sequence: u32, flow: &Flow, acknowledge: bool) {
    let mut attributes = Attributes::default();
    flow.original.encode(flow.protocol, &mut attributes);
    attributes.put_u32(uapi::CTA_ID, flow.id);
    let flags = if acknowledge { REQUEST | libc::NLM_F_ACK as u16 } else { REQUEST };
    let family = if flow.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    put(message, uapi::IPCTNL_MSG_CT_DELETE, flags, sequence, family as u8, &attributes);
}

/// Appends a message. All of ours are short.
fn put(messages: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, attributes: &Attributes) {
    let length = MESSAGE_HEADER + NETFILTER_HEADER + attributes.as_bytes().len();
    messages.extend_from_slice(&(length as u32).to_ne_bytes());
    messages.extend_from_slice(&kind.to_ne_bytes());
    messages.extend_from_slice(&flags.to_ne_bytes());
    messages.extend_from_slice(&sequence.to_ne_bytes());
    // From the port that the kernel gave to the socket.
    messages.extend_from_slice(&0u32.to_ne_bytes());
    // The version of the format, and no resource.
    messages.extend_from_slice(&[family, libc::NFNETLINK_V0 as u8, 0, 0]);
    messages.extend_from_slice(attributes.as_bytes());
}
