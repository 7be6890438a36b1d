//! The chains of iptables-legacy, whose tables are beyond the reach of nf_tables.
#![expect(unsafe_code, reason = "asks a socket, which is the only way to have these tables")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use ruleset::Family;

use crate::message::{u16_at, u32_at};

/// The questions (`IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`, and the same of ip6_tables).
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// The length of a table's name in both.
const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, 12 numbers, and how many bytes all entries have.
const INFO: usize = NAME + 13 * 4;
const INFO_SIZE: usize = INFO - 4;
/// `struct ipt_get_entries`: the name, the number of bytes, and the entries, which 64-bit machines align to eight.
const ENTRIES: usize = NAME + 8;
/// How often a table is asked for that others change meanwhile.
const TRIES: u32 = 10;
/// The name of the target of what stands before a chain's first rule; the chain's name follows it.
const CHAIN_HEAD: &[u8] = b"ERROR\0";
/// `struct xt_entry_target`.
const TARGET: usize = 32;

/// The chains that iptables-legacy has made in the tables that this network namespace has; none where the kernel has not loaded it.
///
/// # Errors
/// The kernel did not tell.
pub fn legacy_chains(family: Family) -> io::Result<Vec<String>> {
    let list = match family {
        Family::Ip => "/proc/thread-self/net/ip_tables_names",
        Family::Ip6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let tables = match fs::read_to_string(list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        tables => tables?,
    };
    let mut chains = Vec::new();
    // To ask for a table that is not listed would have the kernel load it.
    for table in tables.lines() {
        chains.extend(chains_of(&entries(family, table)?, family));
    }
    Ok(chains)
}

fn entries(family: Family, table: &str) -> io::Result<Vec<u8>> {
    let (addresses, level) = match family {
        Family::Ip => (AddressFamily::Inet, libc::IPPROTO_IP),
        Family::Ip6 => (AddressFamily::Inet6, libc::IPPROTO_IPV6),
    };
    let socket = socket(addresses, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; NAME];
    let length = table.len().min(NAME - 1);
    name[..length].copy_from_slice(&table.as_bytes()[..length]);
    let mut tries = 1..=TRIES;
    loop {
        let mut info = [0; INFO];
        info[..NAME].copy_from_slice(&name);
        ask(&socket, level, GET_INFO, &mut info)?;
        let size = u32_at(&info, INFO_SIZE).unwrap_or_default();
        let mut answer = vec![0; ENTRIES + size as usize];
        answer[..NAME].copy_from_slice(&name);
        answer[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
        match ask(&socket, level, GET_ENTRIES, &mut answer) {
            Ok(()) => return Ok(answer.split_off(ENTRIES)),
            // It has another size by now.
            Err(Errno::EAGAIN) if tries.next().is_some() => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn ask(socket: &OwnedFd, level: libc::c_int, question: libc::c_int, answer: &mut [u8]) -> Result<(), Errno> {
    let mut length = answer.len() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `length` bytes of `answer`, which are there.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, question, answer.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(result).map(drop)
}

/// The names of the chains in a table's entries: `struct ipt_entry` or `struct ip6t_entry`, of which only this is looked at: where its
/// target is, and where the next one.
fn chains_of(entries: &[u8], family: Family) -> Vec<String> {
    let target_offset = match family {
        Family::Ip => 88,
        Family::Ip6 => 140,
    };
    let (mut chains, mut rest) = (Vec::new(), entries);
    while let (Some(target), Some(next)) = (u16_at(rest, target_offset), u16_at(rest, target_offset + 2)) {
        let target = rest.get(usize::from(target)..usize::from(next)).unwrap_or_default();
        let is_head = target.get(2..).is_some_and(|name| name.starts_with(CHAIN_HEAD));
        if let (true, Some(name)) = (is_head, target.get(TARGET..)) {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            // The end of the table looks like the head of a chain of this name.
            if &name[..end] != b"ERROR" {
                chains.push(String::from_utf8_lossy(&name[..end]).into_owned());
            }
        }
        // Of no length is what makes no sense.
        rest = rest.get(usize::from(next).max(target_offset)..).unwrap_or_default();
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain's head, as `struct ipt_entry` and its target.
    fn head(name: &str) -> Vec<u8> {
        let mut entry = vec![0; 112 + TARGET + 32];
        entry[88..92].copy_from_slice(&[112u16.to_ne_bytes(), 176u16.to_ne_bytes()].concat());
        entry[114..120].copy_from_slice(CHAIN_HEAD);
        entry[144..144 + name.len()].copy_from_slice(name.as_bytes());
        entry
    }

    #[test]
    fn whatever_the_kernel_says_there_is_an_end_to_it() {
        let whole = [head("one"), head("two")].concat();
        assert_eq!(chains_of(&whole, Family::Ip), ["one", "two"]);
        for length in 0..whole.len() {
            assert!(chains_of(&whole[..length], Family::Ip).len() <= 1);
            for value in [0, 1, 127, 255] {
                let mut changed = whole.clone();
                changed[length] = value;
                assert!(chains_of(&changed, Family::Ip).len() <= 2);
                assert!(chains_of(&changed, Family::Ip6).len() <= 2);
            }
        }
    }
}
