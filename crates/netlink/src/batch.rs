//! Batches of messages: one transaction for the kernel.
#![expect(unsafe_code, reason = "writes messages into libnftnl's pages")]

use std::cell::Cell;
use std::ffi::c_void;

use nftnl::nftnl_sys::{self as sys, libc};
use nftnl::{FinalizedBatch, MsgType, NlMsg, ProtoFamily};

use crate::attributes::Attributes;

/// The most bytes of attributes that a message may have. libnftnl reserves 64 KiB and a page for each message
/// (`nft_nlmsg_maxsize`); what remains is for the headers and the object the attributes are added to.
pub(crate) const MAX_ATTRIBUTES: usize = 0xf000;

/// A batch that messages are added to.
pub(crate) struct Batch {
    batch: nftnl::Batch,
    first: Option<u32>,
    bytes: usize,
}

/// A message for a [`Batch`]: libnftnl's own, and attributes that it has no function for.
pub(crate) struct Message<'a, M> {
    /// Writes the headers and attributes of its own.
    pub(crate) object: &'a M,
    /// Whether it adds the object or deletes it.
    pub(crate) action: MsgType,
    /// More attributes.
    pub(crate) attributes: &'a Attributes,
    /// Whether the kernel shall acknowledge it. Each acknowledgement takes some 800 bytes of the socket's buffer, so that
    /// of many messages only few may ask for one.
    pub(crate) acknowledge: bool,
}

/// A message has more attributes than fit.
#[derive(Debug)]
pub(crate) struct TooLong;

impl Batch {
    /// An empty batch for about so many bytes.
    pub(crate) fn new(expected_bytes: usize) -> Self {
        // The pages go to the kernel with one `sendmsg`, which takes 1024 (UIO_MAXIOV).
        let page = u32::try_from(expected_bytes / 512).unwrap_or(u32::MAX / 2);
        let page = page.max(nftnl::default_batch_page_size()).next_multiple_of(4096);
        Self { batch: nftnl::Batch::with_page_size(page), first: None, bytes: 0 }
    }

    /// Adds a message.
    pub(crate) fn add<M: NlMsg>(&mut self, message: Message<'_, M>) -> Result<(), TooLong> {
        if message.attributes.as_bytes().len() > MAX_ATTRIBUTES {
            return Err(TooLong);
        }
        let written = Written { message, sequence: Cell::new(0), length: Cell::new(0) };
        self.batch.add(&written, written.message.action);
        self.first.get_or_insert(written.sequence.get());
        self.bytes += written.length.get() as usize;
        Ok(())
    }

    /// The sequence number of the first message; that of the next is one more, and so on.
    pub(crate) fn first(&self) -> Option<u32> {
        self.first
    }

    /// The size of the messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(self) -> FinalizedBatch {
        self.batch.finalize()
    }
}

/// A message on its way into the batch, and what becomes known by that.
struct Written<'a, M> {
    message: Message<'a, M>,
    sequence: Cell<u32>,
    length: Cell<u32>,
}

// SAFETY: what is written is the object's message, which is valid by its own `NlMsg`, with whole attributes after it. The
// length in its header counts both.
unsafe impl<M: NlMsg> NlMsg for Written<'_, M> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, action: MsgType) {
        // SAFETY: the buffer is the caller's, who promises what the object needs.
        unsafe { self.message.object.write(buffer, sequence, action) };
        // SAFETY: the object wrote a header to the start of the buffer, which libnftnl aligns for it.
        let header = unsafe { &mut *buffer.cast::<libc::nlmsghdr>() };

        let attributes = self.message.attributes.as_bytes();
        let end = (header.nlmsg_len as usize).next_multiple_of(4);
        // SAFETY: the buffer has room for `nft_nlmsg_maxsize` bytes. `Batch::add` left 8 KiB of them for the headers and
        // the object, which for tables, chains and headers is a few names; rules come without attributes of ours but a
        // comment, and have at most `NFT_RULE_MAXEXPRS` expressions of less than 400 bytes.
        unsafe {
            let place = buffer.cast::<u8>().add(end);
            place.copy_from_nonoverlapping(attributes.as_ptr(), attributes.len());
        }
        header.nlmsg_len = (end + attributes.len()) as u32;
        if self.message.acknowledge {
            header.nlmsg_flags |= libc::NLM_F_ACK as u16;
        } else {
            header.nlmsg_flags &= !(libc::NLM_F_ACK as u16);
        }
        self.sequence.set(sequence);
        self.length.set(header.nlmsg_len);
    }
}

/// A message that consists of its headers, for objects that are all attributes of ours.
pub(crate) struct Header {
    /// One of `NFT_MSG_*`.
    pub(crate) kind: libc::c_int,
    pub(crate) family: ProtoFamily,
}

// SAFETY: libnftnl writes the two headers, 20 bytes, and counts them.
unsafe impl NlMsg for Header {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, action: MsgType) {
        let flags = match action {
            MsgType::Add => libc::NLM_F_CREATE,
            MsgType::Del => 0,
        };
        // SAFETY: the caller's buffer has room for any message.
        unsafe {
            sys::nftnl_nlmsg_build_hdr(buffer.cast(), self.kind as u16, self.family as u16, flags as u16, sequence);
        }
    }
}
