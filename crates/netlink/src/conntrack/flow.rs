//! Connections as conntrack describes them.

use std::net::{IpAddr, SocketAddr};

use super::uapi;
use crate::attributes::Attributes;
use crate::message::{Malformed, attributes};
use crate::uapi::IPS_OFFLOAD;

/// A connection that conntrack tracks, or a flow of datagrams that it takes for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The number of the transport protocol in the IP header: 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Whether it is in a flowtable.
    pub is_offloaded: bool,
    /// The first packet, as its sender sent it.
    pub original: Tuple,
    /// The answers, as they are sent: their source is who answers, after any translation.
    pub reply: Tuple,
    /// What the kernel tells this entry from others by. One that comes later with the same addresses has, but for rare
    /// chance, another one.
    pub id: u32,
}

/// Where the packets of one direction come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Who sends them.
    pub source: SocketAddr,
    /// Where to.
    pub destination: SocketAddr,
}

impl Flow {
    /// Decodes the attributes of an entry. `None` for those that have no ports, or are in a zone of their own: whoever put them
    /// there keeps addresses apart that are the same, so they are none of ours.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let (mut original, mut reply, mut id, mut zone, mut status) = (None, None, None, 0, 0);
        for attribute in attributes(bytes) {
            let (kind, value) = attribute?;
            match kind {
                uapi::CTA_TUPLE_ORIG => original = Tuple::decode(value)?,
                uapi::CTA_TUPLE_REPLY => reply = Tuple::decode(value)?,
                uapi::CTA_STATUS => status = u32::from_be_bytes(exactly(value)?),
                uapi::CTA_ID => id = Some(u32::from_be_bytes(exactly(value)?)),
                uapi::CTA_ZONE => zone = u16::from_be_bytes(exactly(value)?),
                _ => {}
            }
        }
        let (Some((protocol, original)), Some((_, reply)), Some(id), 0) = (original, reply, id, zone) else {
            return Ok(None);
        };
        let is_offloaded = status & IPS_OFFLOAD != 0;
        Ok(Some(Self { protocol, is_offloaded, original, reply, id }))
    }
}

impl Tuple {
    /// Decodes the attributes of a tuple, with the protocol. `None` as for [`Flow::decode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(u8, Self)>, Malformed> {
        let (mut addresses, mut ports, mut zone) = ((None, None), None, 0);
        for attribute in attributes(bytes) {
            let (kind, value) = attribute?;
            match kind {
                uapi::CTA_TUPLE_IP => addresses = decode_addresses(value)?,
                uapi::CTA_TUPLE_PROTO => ports = decode_ports(value)?,
                uapi::CTA_TUPLE_ZONE => zone = u16::from_be_bytes(exactly(value)?),
                _ => {}
            }
        }
        let ((Some(source), Some(destination)), Some((protocol, from, to)), 0) = (addresses, ports, zone) else {
            return Ok(None);
        };
        let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
        Ok(Some((protocol, Self { source, destination })))
    }

    /// Appends it as the original direction of a flow.
    pub(super) fn encode(&self, protocol: u8, message: &mut Attributes) {
        message.nest(uapi::CTA_TUPLE_ORIG, |tuple| {
            tuple.nest(uapi::CTA_TUPLE_IP, |addresses| {
                put_address(addresses, [uapi::CTA_IP_V4_SRC, uapi::CTA_IP_V6_SRC], self.source.ip());
                put_address(addresses, [uapi::CTA_IP_V4_DST, uapi::CTA_IP_V6_DST], self.destination.ip());
            });
            tuple.nest(uapi::CTA_TUPLE_PROTO, |transport| {
                transport.put(uapi::CTA_PROTO_NUM, &[protocol]);
                transport.put(uapi::CTA_PROTO_SRC_PORT, &self.source.port().to_be_bytes());
                transport.put(uapi::CTA_PROTO_DST_PORT, &self.destination.port().to_be_bytes());
            });
        });
    }
}

/// Source and destination.
fn decode_addresses(bytes: &[u8]) -> Result<(Option<IpAddr>, Option<IpAddr>), Malformed> {
    let (mut source, mut destination) = (None, None);
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        let (place, address) = match kind {
            uapi::CTA_IP_V4_SRC => (&mut source, IpAddr::from(exactly::<4>(value)?)),
            uapi::CTA_IP_V4_DST => (&mut destination, IpAddr::from(exactly::<4>(value)?)),
            uapi::CTA_IP_V6_SRC => (&mut source, IpAddr::from(exactly::<16>(value)?)),
            uapi::CTA_IP_V6_DST => (&mut destination, IpAddr::from(exactly::<16>(value)?)),
            _ => continue,
        };
        *place = Some(address);
    }
    Ok((source, destination))
}

/// Protocol, source and destination.
fn decode_ports(bytes: &[u8]) -> Result<Option<(u8, u16, u16)>, Malformed> {
    let (mut protocol, mut source, mut destination) = (None, None, None);
    for attribute in attributes(bytes) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_PROTO_NUM => protocol = Some(u8::from_be_bytes(exactly(value)?)),
            uapi::CTA_PROTO_SRC_PORT => source = Some(u16::from_be_bytes(exactly(value)?)),
            uapi::CTA_PROTO_DST_PORT => destination = Some(u16::from_be_bytes(exactly(value)?)),
            _ => {}
        }
    }
    Ok(protocol.zip(source).zip(destination).map(|((protocol, source), destination)| (protocol, source, destination)))
}

fn put_address(attributes: &mut Attributes, [v4, v6]: [u16; 2], address: IpAddr) {
    match address {
        IpAddr::V4(address) => attributes.put(v4, &address.octets()),
        IpAddr::V6(address) => attributes.put(v6, &address.octets()),
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry as the kernel writes it, in zone `zone`, with an attribute that means nothing to us.
    fn entry(flow: &Flow, zone: u16) -> Vec<u8> {
        let mut attributes = Attributes::default();
        flow.original.encode(flow.protocol, &mut attributes);
        let start = attributes.as_bytes().len();
        flow.reply.encode(flow.protocol, &mut attributes);
        let mut bytes = attributes.as_bytes().to_vec();
        bytes[start + 2..start + 4].copy_from_slice(&(uapi::CTA_TUPLE_REPLY | crate::uapi::NLA_F_NESTED).to_ne_bytes());
        let mut others = Attributes::default();
        others.put_u32(3, 0x18e);
        others.put_u32(uapi::CTA_ID, flow.id);
        if zone != 0 {
            others.put(uapi::CTA_ZONE, &zone.to_be_bytes());
        }
        bytes.extend_from_slice(others.as_bytes());
        bytes
    }

    fn flows() -> [Flow; 2] {
        let flow = |client: &str, service: &str, endpoint: &str| {
            let [client, service, endpoint] = [client, service, endpoint].map(|socket| socket.parse().unwrap());
            let original = Tuple { source: client, destination: service };
            Flow {
                protocol: 17,
                is_offloaded: false,
                original,
                reply: Tuple { source: endpoint, destination: client },
                id: 0x0102_0304,
            }
        };
        [
            flow("192.0.2.1:40000", "10.96.0.10:53", "10.1.0.2:5353"),
            flow("[2001:db8::1]:40000", "[fd00::10]:53", "[fd00:1::2]:5353"),
        ]
    }

    #[test]
    fn what_is_encoded_is_what_is_decoded() {
        for flow in flows() {
            assert_eq!(Flow::decode(&entry(&flow, 0)), Ok(Some(flow)));
        }
    }

    #[test]
    fn entries_of_other_zones_are_none_of_ours() {
        let [flow, _] = flows();
        assert_eq!(Flow::decode(&entry(&flow, 7)), Ok(None));
        // A zone may also be that of one direction only: inside its tuple.
        for direction in [uapi::CTA_TUPLE_ORIG, uapi::CTA_TUPLE_REPLY] {
            let bytes = entry(&flow, 0);
            let mut changed = Attributes::default();
            for (kind, value) in attributes(&bytes).map(Result::unwrap) {
                let mut value = value.to_vec();
                if kind == direction {
                    let mut zone = Attributes::default();
                    zone.put(uapi::CTA_TUPLE_ZONE, &7u16.to_be_bytes());
                    value.extend_from_slice(zone.as_bytes());
                }
                changed.put(kind, &value);
            }
            assert_eq!(Flow::decode(changed.as_bytes()), Ok(None), "direction {direction}");
        }
    }

    /// Every attribute is needed: what lacks one is not taken for a flow, in whole or in part.
    #[test]
    fn truncated_at_every_byte() {
        for flow in flows() {
            let whole = entry(&flow, 0);
            for length in 0..whole.len() {
                let decoded = Flow::decode(&whole[..length]);
                assert!(matches!(decoded, Ok(None) | Err(Malformed)), "{length} bytes: {decoded:?}");
            }
        }
    }

    #[test]
    fn any_byte_may_have_any_value() {
        for flow in flows() {
            let whole = entry(&flow, 0);
            let mut flows = 0;
            for at in 0..whole.len() {
                for value in 0..=u8::MAX {
                    let mut changed = whole.clone();
                    changed[at] = value;
                    flows += usize::from(matches!(Flow::decode(&changed), Ok(Some(_))));
                }
            }
            assert!(flows > 256, "bytes of addresses and ports may be any");
        }
    }
}
