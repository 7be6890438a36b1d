//! Rules as text.
#![expect(unsafe_code, reason = "calls libnftnl's parser and printer")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use nftnl::nftnl_sys as sys;

use crate::message::{MESSAGE_HEADER, Malformed, Message};

/// Attributes of a rule that say where it is, and not what it does.
const PLACE: [u16; 5] = [
    sys::NFTNL_RULE_FAMILY as u16,
    sys::NFTNL_RULE_TABLE as u16,
    sys::NFTNL_RULE_CHAIN as u16,
    sys::NFTNL_RULE_HANDLE as u16,
    sys::NFTNL_RULE_POSITION as u16,
];

/// The expressions and annotations of the rule in a message, ours or the kernel's, printed by libnftnl: one a line, and the
/// same text for rules that do the same.
pub(crate) fn rule_text(message: Message<'_>) -> Result<String, Malformed> {
    let printed = Rule::parse(message)?.print();
    let lines: Vec<_> = printed.lines().map(|line| without_the_implied(line.trim())).collect();
    Ok(lines.join("\n"))
}

/// An expression without what the kernel lists although it was sent without: that a lookup has no flags; that a translation is
/// one of address and port, each up to where it starts (`nft_nat_init`, net/netfilter/nft_nat.c).
fn without_the_implied(line: &str) -> String {
    const FLAGS: [(&str, &str); 2] = [("[ lookup ", " 0x0 ]"), ("[ nat ", " flags 0x3 ]")];
    let flags = |(start, end): &(&str, &str)| line.strip_suffix(*end).filter(|line| line.starts_with(*start));
    let line = FLAGS.iter().find_map(flags).unwrap_or_else(|| line.trim_end_matches(" ]"));
    let words: Vec<_> = line.split(' ').collect();
    let mut kept: Vec<&str> = Vec::with_capacity(words.len());
    let mut rest = words.as_slice();
    while let [word, after @ ..] = rest {
        rest = match rest {
            ["addr_max" | "proto_max", "reg", register, after @ ..] if kept.last() == Some(register) => after,
            _ => {
                kept.push(word);
                after
            }
        };
    }
    kept.join(" ")
}

/// libnftnl's rule.
struct Rule(NonNull<sys::nftnl_rule>);

impl Rule {
    fn parse(message: Message<'_>) -> Result<Self, Malformed> {
        // Aligned, and with zeros behind it: the parser takes strings to end in one.
        let mut copy = vec![0u64; message.bytes.len() / 8 + 2];
        for (word, bytes) in copy.iter_mut().zip(message.bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        if message.bytes.len() < MESSAGE_HEADER + crate::message::NETFILTER_HEADER {
            return Err(Malformed);
        }
        // SAFETY: takes nothing.
        let rule = NonNull::new(unsafe { sys::nftnl_rule_alloc() });
        let rule = Self(rule.unwrap_or_else(|| handle_alloc_error(Layout::new::<[u64; 16]>())));
        // SAFETY: the copy is aligned for a header and starts with one, whose length is that of the message: `messages` has
        // checked that. What the parser keeps, it copies.
        let parsed = unsafe { sys::nftnl_rule_nlmsg_parse(copy.as_ptr().cast(), rule.0.as_ptr()) };
        if parsed < 0 {
            return Err(Malformed);
        }
        for attribute in PLACE {
            // SAFETY: the rule lives, and these are attributes of it.
            unsafe { sys::nftnl_rule_unset(rule.0.as_ptr(), attribute) };
        }
        Ok(rule)
    }

    fn print(&self) -> String {
        let mut buffer = vec![0u8; 2048];
        loop {
            // SAFETY: the printer writes at most as many bytes as there are, with a zero at the end.
            let length = unsafe {
                sys::nftnl_rule_snprintf(
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    self.0.as_ptr(),
                    sys::NFTNL_OUTPUT_DEFAULT,
                    0,
                )
            };
            // It says how long the text is, whether or not there was room for it.
            let length = usize::try_from(length).unwrap_or_default();
            if length < buffer.len() {
                return String::from_utf8_lossy(&buffer[..length]).into_owned();
            }
            buffer.resize(length + 1, 0);
        }
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // SAFETY: it was allocated by libnftnl, and nothing else has a claim on it.
        unsafe { sys::nftnl_rule_free(self.0.as_ptr()) };
    }
}
