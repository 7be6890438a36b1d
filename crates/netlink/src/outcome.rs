//! What became of a transaction, by the kernel's answers.

use std::io;

use ruleset::{CommitError, Rejection, Transaction};

use crate::encode::{Contents, Part, elements};
use crate::message::{MESSAGE_HEADER, NETFILTER_HEADER};
use crate::reply::Reply;

/// All that the kernel answered to a batch.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) replies: Vec<Reply>,
    /// Why there may have been more.
    pub(crate) lost: Option<io::Error>,
}

/// Decides whether a transaction was committed.
///
/// It was if the last message was acknowledged and none failed. Any error means that nothing was: the kernel checks the
/// messages that follow a failed one, to report those that fail too, and gives up then (`nfnetlink_rcv_batch`,
/// net/netfilter/nfnetlink.c). What refuses the batch as a whole is reported as about the message that begins it, or,
/// at the very end, about the first operation, which then has been acknowledged also.
pub(crate) fn judge(answers: Answers, contents: &Contents, transaction: &Transaction) -> Result<(), CommitError> {
    let part = |reply: &Reply| {
        let index = reply.sequence.checked_sub(contents.first)?;
        contents.parts.get(index as usize)
    };
    let last = contents.first + contents.parts.len() as u32 - 1;
    let acknowledged = |sequence| {
        let mut replies = answers.replies.iter();
        replies.any(|reply| reply.errno == 0 && reply.sequence == sequence)
    };
    let mut rejections = Vec::new();
    for reply in answers.replies.iter().filter(|reply| reply.errno != 0) {
        let whole = reply.sequence == contents.first && acknowledged(contents.first);
        match part(reply) {
            // Memory ran out while the kernel worked on the batch or on its answers, which no operation is to blame for.
            Some(part) if !whole && reply.errno != libc::ENOMEM => {
                rejections.push(rejection(reply, part, transaction));
            }
            _ => return Err(refused(io::Error::from_raw_os_error(reply.errno), transaction)),
        }
    }
    if !rejections.is_empty() {
        return Err(CommitError::Rejected { rejections });
    }
    if answers.lost.is_none() && acknowledged(last) {
        return Ok(());
    }
    let nothing = || io::Error::new(io::ErrorKind::UnexpectedEof, "the last operation was not acknowledged");
    Err(CommitError::Unknown { table: table(transaction), source: answers.lost.unwrap_or_else(nothing) })
}

/// The error of a transaction that the kernel refused as a whole.
pub(crate) fn refused(source: io::Error, transaction: &Transaction) -> CommitError {
    let advice = match source.raw_os_error() {
        Some(libc::EPERM) => "give this process the capability NET_ADMIN",
        Some(libc::EOPNOTSUPP | libc::EINVAL) => "load the kernel module nf_tables, or use a kernel that has it",
        // The kernel's ERESTART, which it keeps from other system calls.
        Some(ERESTART) => "another program changed the ruleset meanwhile: try again",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the node is out of memory: free some",
        Some(libc::EMSGSIZE) => "it is larger than netlink can carry at once: send it in parts",
        _ => "compare the kernel's version with those that are supported",
    };
    CommitError::Refused { table: table(transaction), advice, source }
}

const ERESTART: i32 = 85;

fn rejection(reply: &Reply, part: &Part, transaction: &Transaction) -> Rejection {
    let op = &transaction.ops[part.op];
    let offset = reply.offset.and_then(|offset| offset.checked_sub(MESSAGE_HEADER + NETFILTER_HEADER));
    let (element, others) = match &part.elements {
        None => (None, 0),
        // What is wrong with the elements together, such as a loop of chains, has no place in the message.
        Some(range) => match offset.and_then(|offset| elements(transaction, part)?.at(offset)) {
            Some(element) => (Some(range.start + element), 0),
            None => (Some(range.start), range.len() - 1),
        },
    };
    let operation = match element {
        None => transaction.display(op).to_string(),
        Some(element) if others == 0 => transaction.display_element(op, element).to_string(),
        Some(element) => {
            format!("{} or one of the {others} elements after it", transaction.display_element(op, element))
        }
    };
    let element = element.filter(|_| others == 0);
    Rejection { operation, position: (part.op, element), source: io::Error::from_raw_os_error(reply.errno) }
}

fn table(transaction: &Transaction) -> String {
    format!("{} {}", transaction.family, transaction.table)
}

#[cfg(test)]
mod tests {
    use ruleset::{Family, Name, Op};

    use super::*;

    /// Judges answers to the deletion of three chains, with sequence numbers 2 to 4.
    fn judged(replies: &[(u32, i32)], lost: Option<i32>) -> Result<(), CommitError> {
        let name = Name::new("t").unwrap();
        let mut transaction = Transaction::new(Family::Ip, name.clone());
        transaction.ops = vec![Op::DeleteChain(name); 3];
        let part = |op| Part { op, elements: None };
        let contents = Contents { first: 2, parts: (0..3).map(part).collect() };
        let reply = |(sequence, errno): &(u32, i32)| Reply { sequence: *sequence, errno: *errno, offset: None };
        let answers =
            Answers { replies: replies.iter().map(reply).collect(), lost: lost.map(io::Error::from_raw_os_error) };
        judge(answers, &contents, &transaction)
    }

    #[test]
    fn committed_if_the_last_is_acknowledged_and_nothing_failed() {
        judged(&[(1, 0), (2, 0), (4, 0), (5, 0)], None).unwrap();
        // Older kernels do not acknowledge the begin and the end.
        judged(&[(2, 0), (4, 0)], None).unwrap();
    }

    #[test]
    fn unknown_if_an_answer_is_missing() {
        for (replies, lost) in [
            (&[][..], None),
            (&[(1, 0), (2, 0)], None),
            (&[(1, 0), (2, 0), (4, 0)], Some(libc::ENOBUFS)),
            (&[(9, 0)], None),
        ] {
            let error = judged(replies, lost).unwrap_err();
            assert!(matches!(error, CommitError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn rejected_if_operations_failed_even_if_more_was_lost() {
        for lost in [None, Some(libc::ENOBUFS)] {
            let error = judged(&[(1, 0), (2, libc::ENOENT), (3, libc::EBUSY), (4, 0)], lost).unwrap_err();
            let CommitError::Rejected { rejections } = error else {
                panic!("{error}");
            };
            let positions: Vec<_> = rejections.iter().map(|rejection| rejection.position).collect();
            assert_eq!(positions, [(0, None), (1, None)]);
        }
    }

    #[test]
    fn refused_as_a_whole() {
        for (replies, advice) in [
            (&[(1, libc::EPERM)][..], "NET_ADMIN"),
            (&[(0, libc::EOPNOTSUPP)], "module"),
            (&[(1, ERESTART)], "try again"),
            (&[(1, 0), (2, libc::ENOMEM)], "memory"),
            // The commit itself failed, after all operations had been acknowledged.
            (&[(1, 0), (2, libc::EIO), (2, 0), (4, 0)], "version"),
        ] {
            let error = judged(replies, None).unwrap_err();
            assert!(matches!(error, CommitError::Refused { .. }), "{error}");
            assert!(error.to_string().contains(advice), "{error}");
        }
    }
}
