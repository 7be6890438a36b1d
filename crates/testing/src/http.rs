//! Just enough HTTP to ask the proxy how it is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names, in lower case, and values, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// All of the body.
    pub body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Status and body of `http://127.0.0.1:PORT/PATH` inside `namespace`.
///
/// # Errors
/// Nobody listens, or there is no answer.
pub fn fetch(namespace: &Namespace, port: u16, path: &str) -> Result<(u16, String)> {
    let answer = request(namespace, port, &format!("GET {path}"), &[], "")?;
    Ok((answer.status, answer.body))
}

/// What `http://127.0.0.1:PORT` inside `namespace` answers to `METHOD PATH` with these headers and this body.
///
/// # Errors
/// Nobody listens, or there is no answer.
pub fn request(namespace: &Namespace, port: u16, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address, TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    // Version 1.0: the body of the answer ends with the connection.
    write!(stream, "{line} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer).with_context(|| format!("{line}: that was no HTTP: {answer:?}"))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(Answer { status, headers: lines.map(header).collect::<Option<_>>()?, body: body.to_owned() })
}
