//! Log lines that are not taken: the disk behind standard error may be full.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Format, klog};

/// How many lines were lost since the process started, and of how many nobody was told yet. There is one standard error.
static LOST: AtomicU64 = AtomicU64::new(0);
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// How many log lines were lost since the process started.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes log lines. Those that are not taken are counted, and told of after the next one that is.
pub(super) struct Lines<W> {
    pub(super) to: W,
    pub(super) format: Format,
}

impl<W: Write> Write for Lines<W> {
    /// Takes a whole line, or nothing.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.to.write_all(line) {
            LOST.fetch_add(1, Ordering::Relaxed);
            UNTOLD.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
        let untold = UNTOLD.swap(0, Ordering::Relaxed);
        if untold > 0 && self.to.write_all(told(self.format, untold).as_bytes()).is_err() {
            UNTOLD.fetch_add(untold, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn told(format: Format, lost: u64) -> String {
    let message = format!("{lost} log lines were lost before the last one, because standard error did not take them");
    klog::warning(format, concat!("lines.rs:", line!()), &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_told_once_there_is_room() {
        let mut lines = Lines { to: Disk(Vec::new(), 4), format: Format::Json };
        lines.write_all(b"{}\n").unwrap();
        lines.write_all(b"{}\n").unwrap_err();
        lines.write_all(b"{}\n").unwrap_err();
        // For one line, but not for what is to be told.
        lines.to.1 = 6;
        lines.write_all(b"{}\n").unwrap();
        lines.to.1 = 1000;
        lines.write_all(b"{}\n").unwrap();
        lines.write_all(b"{}\n").unwrap();
        let text = String::from_utf8(lines.to.0).unwrap();
        let messages: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(messages.len(), 5, "{text}");
        assert!(messages[3]["msg"].as_str().unwrap().starts_with("2 log lines were lost"), "{text}");
        assert_eq!(lost(), 2);
    }
}
