//! Expressions of libnftnl that the `nftnl` crate has no types for.
#![expect(unsafe_code, reason = "builds libnftnl's objects")]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, CString};
use std::net::IpAddr;
use std::ptr::NonNull;

use nftnl::Rule;
use nftnl::expr::Expression;
use nftnl::nftnl_sys as sys;
use ruleset::Name;

/// An expression of any kind: its name and its attributes.
#[derive(Debug)]
pub(crate) struct Expr {
    name: &'static CStr,
    attributes: Vec<(u32, Value)>,
}

impl Expr {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, attributes: Vec::new() }
    }

    /// Sets an attribute, one of `NFTNL_EXPR_*` that belongs to this kind of expression and takes this type of value.
    #[must_use]
    pub(crate) fn with(mut self, attribute: u32, value: impl Into<Value>) -> Self {
        self.attributes.push((attribute, value.into()));
        self
    }
}

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name ends in a zero.
        let expr = unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) };
        let expr = NonNull::new(expr).unwrap_or_else(|| handle_alloc_error(Layout::new::<[u64; 16]>()));
        for (attribute, value) in &self.attributes {
            let attribute = *attribute as u16;
            // SAFETY: `expr` was made above. The value outlives the call, which copies it; data is at most 16 bytes, less
            // than the 64 that libnftnl has room for; strings end in a zero.
            unsafe {
                match value {
                    Value::U8(number) => sys::nftnl_expr_set_u8(expr.as_ptr(), attribute, *number),
                    Value::U32(number) => sys::nftnl_expr_set_u32(expr.as_ptr(), attribute, *number),
                    Value::U64(number) => sys::nftnl_expr_set_u64(expr.as_ptr(), attribute, *number),
                    Value::Data(bytes, length) => {
                        sys::nftnl_expr_set(expr.as_ptr(), attribute, bytes.as_ptr().cast(), u32::from(*length));
                    }
                    Value::Name(name) => {
                        sys::nftnl_expr_set_str(expr.as_ptr(), attribute, name.as_ptr());
                    }
                }
            }
        }
        expr
    }
}

/// The value of an attribute.
#[derive(Debug)]
pub(crate) enum Value {
    U8(u8),
    U32(u32),
    U64(u64),
    /// What a register is compared or combined with: this many of the bytes, at most all.
    Data([u8; 16], u8),
    Name(CString),
}

impl Value {
    /// A number in the machine's byte order.
    pub(crate) fn native(number: u32) -> Self {
        Self::data(&number.to_ne_bytes())
    }

    /// An address, or the first bytes of one.
    pub(crate) fn address(address: IpAddr, length: usize) -> Self {
        match address {
            IpAddr::V4(v4) => Self::data(&v4.octets()[..length.min(4)]),
            IpAddr::V6(v6) => Self::data(&v6.octets()[..length.min(16)]),
        }
    }

    /// Bytes with as many zeros after them as make `length`, which is at most 16 and not less than they are.
    pub(crate) fn padded(bytes: &[u8], length: usize) -> Self {
        let mut data = [0; 16];
        let copied = bytes.len().min(data.len());
        data[..copied].copy_from_slice(&bytes[..copied]);
        Self::Data(data, length.min(data.len()) as u8)
    }

    fn data(bytes: &[u8]) -> Self {
        Self::padded(bytes, bytes.len())
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::U8(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::U64(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::U32(number.cast_unsigned())
    }
}

impl From<&Name> for Value {
    fn from(name: &Name) -> Self {
        Self::Name(c_string(name))
    }
}

/// A name for C.
pub(crate) fn c_string(name: &Name) -> CString {
    // A name has no zero bytes, which is all that could fail.
    CString::new(name.as_str()).unwrap_or_default()
}
