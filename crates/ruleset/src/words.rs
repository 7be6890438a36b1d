//! Set keys and map data, laid out as the kernel wants them.

use std::net::IpAddr;

/// A key or a datum of a set: its fields one after the other, each padded with zeros to a multiple of four bytes, because
/// the kernel keeps each in registers of 32 bits (`NFT_REG32_*`, include/uapi/linux/netfilter/nf_tables.h).
///
/// Values go in network byte order except numbers the kernel itself counts with ([`WordsBuilder::native`]).
///
/// The capacity of N bytes is that of the widest key we use: two IPv6 addresses, a protocol and two ports. The kernel's own limit
/// is 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Words<const N: usize = 44> {
    bytes: [u8; N],
    len: u8,
}

/// What an element maps to, at most an IPv6 address and a port: a transaction may hold very many of them.
pub type Datum = Words<20>;

impl Words {
    /// An empty value, to which fields are added.
    pub const fn build() -> WordsBuilder {
        WordsBuilder(Self { bytes: [0; Self::CAPACITY], len: 0 })
    }
}

impl<const N: usize> Words<N> {
    /// The most bytes it can hold.
    pub const CAPACITY: usize = N;

    /// The bytes, a multiple of four.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Takes bytes that the kernel sent. `None` if they are more than [`Words::CAPACITY`] or no multiple of four.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::CAPACITY || !bytes.len().is_multiple_of(4) {
            return None;
        }
        let mut words = Self { bytes: [0; N], len: bytes.len() as u8 };
        words.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(words)
    }
}

impl<const N: usize> std::fmt::Debug for Words<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for word in self.as_bytes().chunks(4) {
            for byte in word {
                write!(f, "{byte:02x}")?;
            }
            f.write_str(" ")?;
        }
        Ok(())
    }
}

/// Adds fields to [`Words`], in order.
///
/// # Panics
/// Each method, if the fields together are longer than [`Words::CAPACITY`]: the layout of every set is fixed in code.
#[derive(Clone, Copy, Debug)]
pub struct WordsBuilder(Words);

impl WordsBuilder {
    /// An address.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.field(&v4.octets()),
            IpAddr::V6(v6) => self.field(&v6.octets()),
        }
    }

    /// A transport protocol number.
    #[must_use]
    pub fn protocol(self, number: u8) -> Self {
        self.field(&[number])
    }

    /// A port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// A number that the kernel made, such as a random index: in the byte order of the machine.
    #[must_use]
    pub fn native(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    /// The finished key.
    pub const fn finish(self) -> Words {
        self.0
    }

    /// The finished value, to which a key maps.
    ///
    /// # Panics
    /// If it is longer than [`Datum::CAPACITY`].
    pub fn datum(self) -> Datum {
        let mut datum = Datum { bytes: [0; Datum::CAPACITY], len: self.0.len };
        datum.bytes[..usize::from(self.0.len)].copy_from_slice(self.0.as_bytes());
        datum
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        let start = usize::from(self.0.len);
        self.0.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.0.len += bytes.len().next_multiple_of(4) as u8;
        self
    }
}
