//! See [`crate::fuzz`].

use super::page::Page;
use super::request::{NETFILTER_HEADER, delete};
use super::{Tuple, uapi};
use crate::message::{attributes, messages, u32_at};

/// A page of the list that request number 1 asks for.
pub(crate) fn page(datagram: &[u8]) {
    let mut page = Page::new(1);
    page.read(datagram, |_| true).ok();
    assert!(page.matching.len() <= datagram.len() / 16, "each has a header at least");
    for flow in &page.matching {
        let mut request = Vec::new();
        delete(&mut request, 7, flow, false);
        let Some(Ok(message)) = messages(&request).next() else { panic!("a request that is no message") };
        let named: Vec<_> = attributes(&message.body[NETFILTER_HEADER..]).map_while(Result::ok).collect();
        let value = |wanted| named.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let tuple = value(uapi::CTA_TUPLE_ORIG).and_then(|value| Tuple::decode(value).ok()?);
        let id = value(uapi::CTA_ID).and_then(|value| u32_at(value, 0)).map(u32::from_be);
        assert_eq!((tuple, id), (Some((flow.protocol, flow.original)), Some(flow.id)));
    }
}
