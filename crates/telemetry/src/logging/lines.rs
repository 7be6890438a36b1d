//! Log lines on their way to standard error. Who logs never waits for it: who reads it may have stopped to do so, as a container
//! runtime without a disk to write to, and the disk behind it may be slow, or full.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Format, klog};

/// How many bytes of lines may wait to be written: some thousand lines. Beyond that, new ones are lost.
const ROOM: usize = 512 << 10;

/// How many lines were lost since the process started. There is one standard error.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How many log lines were lost since the process started.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Takes log lines, each with one call of [`Write::write`], for a thread that writes them. Clones are for the same thread.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A line came, or was written.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// The size of all that are not written, the one included that is just being written.
    bytes: usize,
    /// How many were lost since the last one was taken in.
    lost: u64,
}

struct Line {
    text: Vec<u8>,
    /// How many were lost right before it.
    lost_before: u64,
}

impl Lines {
    /// Starts the thread, which lives as long as the process.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub(super) fn to(writer: impl Write + Send + 'static, format: Format) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let shared = Arc::clone(&lines.0);
        let mut output = Output { writer, format, lost: 0 };
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                let line = shared.next();
                let bytes = line.text.len();
                output.write(line);
                shared.written(bytes);
            }
        })?;
        Ok(lines)
    }

    /// Waits until all that was taken in so far is written, but not for longer than that.
    pub(super) fn flush_within(&self, patience: Duration) {
        let waited = self.0.changed.wait_timeout_while(self.0.queue(), patience, |queue| queue.bytes > 0);
        // Whether or not all is written, there is nothing more to do about it.
        drop(waited);
    }
}

impl Write for Lines {
    /// Takes the line in, or counts it as lost.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.queue();
        if queue.bytes + text.len() > ROOM {
            queue.lost += 1;
            LOST.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.bytes += text.len();
            let lost_before = std::mem::take(&mut queue.lost);
            queue.lines.push_back(Line { text: text.to_owned(), lost_before });
            self.0.changed.notify_all();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next line to write.
    fn next(&self) -> Line {
        let mut queue = self.queue();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn written(&self, bytes: usize) {
        self.queue().bytes -= bytes;
        self.changed.notify_all();
    }
}

/// Where lines go. Those that are not taken are counted, and told of before the next one that is.
struct Output<W> {
    writer: W,
    format: Format,
    /// How many were lost that nobody was told of.
    lost: u64,
}

impl<W: Write> Output<W> {
    fn write(&mut self, line: Line) {
        self.lost += line.lost_before;
        if self.lost > 0 && self.writer.write_all(told(self.format, self.lost).as_bytes()).is_ok() {
            self.lost = 0;
        }
        // What is told comes first, and takes the room of a line.
        if self.lost > 0 || self.writer.write_all(&line.text).is_err() {
            self.lost += 1;
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn told(format: Format, lost: u64) -> String {
    let message = format!("{lost} log lines were lost here, because standard error did not take them");
    klog::warning(format, concat!("lines.rs:", line!()), &message)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

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

    fn messages(text: &[u8]) -> Vec<String> {
        let lines = std::str::from_utf8(text).unwrap().lines().map(serde_json::from_str::<serde_json::Value>);
        lines.map(|line| line.unwrap()["msg"].as_str().unwrap_or("a line").to_owned()).collect()
    }

    fn line(lost_before: u64) -> Line {
        Line { text: b"{}\n".into(), lost_before }
    }

    #[test]
    fn what_is_lost_is_told_once_there_is_room() {
        let mut output = Output { writer: Disk(Vec::new(), 4), format: Format::Json, lost: 0 };
        output.write(line(0));
        output.write(line(0));
        output.write(line(5));
        // For a line, but not for what is to be told before it.
        output.writer.1 = 6;
        output.write(line(0));
        output.writer.1 = 1000;
        output.write(line(0));
        output.write(line(0));
        output.write(line(1));
        let lost = |lost| format!("{lost} log lines were lost here, because standard error did not take them");
        let line = || "a line".to_owned();
        assert_eq!(messages(&output.writer.0), [line(), lost(8), line(), line(), lost(1), line()]);
    }

    /// Who reads takes a line only when told to.
    struct Pipe(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_does_not_read_and_the_first_lines_are_kept() {
        const COUNT: usize = 3 * ROOM / 100;
        let ((go_on, told), (read, written)) = (channel(), channel());
        let mut lines = Lines::to(Pipe(told, read), Format::Json).unwrap();
        let before = lost();
        for number in 0..COUNT {
            lines.write_all(format!("{number:>99}\n").as_bytes()).unwrap();
        }
        lines.flush_within(Duration::ZERO);
        let kept = ROOM / 100;
        assert!(lost() - before >= (COUNT - kept) as u64);
        // What comes after the loss, once there is room.
        (0..=kept).for_each(|_| go_on.send(()).unwrap());
        let first: Vec<_> = written.iter().take(kept).collect();
        for (number, line) in first.iter().enumerate() {
            assert_eq!(*line, format!("{number:>99}\n").as_bytes());
        }
        lines.write_all(b"{\"msg\": \"last\"}\n").unwrap();
        go_on.send(()).unwrap();
        let end: Vec<_> = written.iter().take(2).flat_map(|line| messages(&line)).collect();
        let (told, last) = (&end[0], &end[1]);
        assert!(told.starts_with(&format!("{} log lines were lost here", COUNT - kept)), "{told}");
        assert_eq!(last, "last");
        lines.flush_within(Duration::from_secs(20));
        assert_eq!(lines.0.queue().bytes, 0);
    }
}
