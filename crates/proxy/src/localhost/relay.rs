//! Two connections as one: what comes by the one is sent by the other, without its bytes being looked at, or copied to this process.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::pin::pin;

use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much is moved at a time: what a pipe holds (`PIPE_DEF_BUFFERS` pages, include/linux/pipe_fs_i.h).
const CHUNK: usize = 64 << 10;

/// How often a peer that is silent is asked whether it is there, in seconds; after four questions without an answer, it is not.
const KEEPALIVE: u32 = 30;
const KEEPALIVE_QUESTIONS: u32 = 4;

/// How one direction ended.
#[derive(Debug)]
enum End {
    /// All was said, and passed on.
    Said,
    /// Who was to be told does not listen any more. What it has said itself may still be on its way.
    Unheard,
}

/// Prepares one of the two connections. From now on, it ends with a reset, so that nobody takes what broke off for all there was.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE)?;
    Ok(setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_QUESTIONS)?)
}

/// Moves bytes both ways between two prepared connections, until each has said all, or one breaks. Where only one has said all, the other
/// is told so, and goes on.
///
/// # Errors
/// One of them broke, or there is no pipe to be had; both have been, or will be, reset.
pub(super) async fn relay(client: TcpStream, server: TcpStream) -> io::Result<()> {
    {
        let (mut up, mut down) = (pin!(pump(&client, &server)), pin!(pump(&server, &client)));
        // Who has said all is not read from any more, and has to be asked whether it is there.
        let ends = tokio::select! {
            end = &mut up => (tell(&server, end?), or_broken(down, &client).await?),
            end = &mut down => (tell(&client, end?), or_broken(up, &server).await?),
        };
        if !matches!(ends, (End::Said, End::Said)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    for stream in [&client, &server] {
        setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 0, l_linger: 0 })?;
    }
    Ok(())
}

/// Tells one that the other has said all, if it has.
fn tell(to: &TcpStream, end: End) -> End {
    match end {
        End::Said if shutdown(to.as_raw_fd(), Shutdown::Write).is_ok() => End::Said,
        End::Said | End::Unheard => End::Unheard,
    }
}

/// The other direction, unless the connection that it leads to breaks before.
async fn or_broken(pump: impl Future<Output = io::Result<End>>, to: &TcpStream) -> io::Result<End> {
    tokio::select! {
        end = pump => end,
        broken = to.ready(Interest::ERROR) => Err(broken.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())),
    }
}

/// Moves bytes one way. The pipe is empty whenever there is something to read, so that `from` alone can make that wait, and `to` alone
/// what follows: no more is read than `to` takes.
///
/// # Errors
/// `from` broke, or there is no pipe to be had.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<End> {
    let (exit, entry) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    loop {
        let mut held = from.async_io(Interest::READABLE, || fill(from, &entry)).await?;
        if held == 0 {
            return Ok(End::Said);
        }
        while held > 0 {
            match to.async_io(Interest::WRITABLE, || empty(&exit, to, held)).await {
                Ok(moved) => held -= moved,
                Err(_) => return Ok(End::Unheard),
            }
        }
    }
}

fn fill(from: &TcpStream, entry: &OwnedFd) -> io::Result<usize> {
    Ok(splice(from, None, entry, None, CHUNK, SpliceFFlags::SPLICE_F_NONBLOCK)?)
}

fn empty(exit: &OwnedFd, to: &TcpStream, held: usize) -> io::Result<usize> {
    Ok(splice(exit, None, to, None, held, SpliceFFlags::SPLICE_F_NONBLOCK)?)
}
