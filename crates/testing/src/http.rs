//! Just enough HTTP to ask the proxy how it is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Status and body of `http://127.0.0.1:PORT/PATH` inside `namespace`.
///
/// # Errors
/// Nobody listens, or there is no answer.
pub fn fetch(namespace: &Namespace, port: u16, path: &str) -> Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // Version 1.0: the body ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("that was no HTTP")?;
    let status = head.split(' ').nth(1).context("that was no HTTP")?.parse()?;
    Ok((status, body.to_owned()))
}
