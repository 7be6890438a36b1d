//! Log lines in the formats of klog, which log pipelines for Kubernetes read (contract §1.8).

use std::fmt::{self, Write};
use std::process;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Format;

/// Writes each event as one line.
pub(super) struct Klog(pub(super) Format);

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (begin, end): (fn(&mut Writer<'_>, &Metadata<'_>) -> fmt::Result, _) = match self.0 {
            Format::Text => (begin_text, "\n"),
            Format::Json => (begin_json, "}\n"),
        };
        begin(&mut line, event.metadata())?;
        let mut fields = Fields { line, format: self.0, written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        fields.line.write_str(end)
    }
}

/// The letter of the level, month and day, the time of day with microseconds, the process, the place in the source. The time is UTC:
/// in a container, which has no other time zone, that is klog's local time.
fn begin_text(line: &mut Writer<'_>, metadata: &Metadata<'_>) -> fmt::Result {
    let letter = match *metadata.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    time_and_process(line, letter)?;
    place(line, metadata)?;
    line.write_char(']')
}

fn time_and_process(line: &mut impl Write, letter: char) -> fmt::Result {
    let now = TimeZone::UTC.to_datetime(Timestamp::now());
    write!(
        line,
        "{letter}{:02}{:02} {:02}:{:02}:{:02}.{:06} {:7} ",
        now.month(),
        now.day(),
        now.hour(),
        now.minute(),
        now.second(),
        now.subsec_nanosecond() / 1000,
        process::id(),
    )
}

/// The time in milliseconds, with a fraction, and the place in the source. The verbosity is that of `-v` from which on such lines are
/// written; errors have none, and warnings, as with klog, that of what is always written.
fn begin_json(line: &mut Writer<'_>, metadata: &Metadata<'_>) -> fmt::Result {
    milliseconds(line)?;
    place(&mut Escaped(line), metadata)?;
    line.write_char('"')?;
    match *metadata.level() {
        Level::ERROR => Ok(()),
        Level::WARN | Level::INFO => line.write_str(r#","v":0"#),
        Level::DEBUG => line.write_str(r#","v":2"#),
        Level::TRACE => line.write_str(r#","v":4"#),
    }
}

fn milliseconds(line: &mut impl Write) -> fmt::Result {
    let now = Timestamp::now().as_microsecond();
    write!(line, r#"{{"ts":{}.{:03},"caller":""#, now / 1000, now % 1000)
}

/// A warning that is no event. Neither `place` nor `message` has anything in it that would have to be escaped.
pub(super) fn warning(format: Format, place: &str, message: &str) -> String {
    let mut line = String::new();
    let written = match format {
        Format::Text => time_and_process(&mut line, 'W').and_then(|()| writeln!(line, r#"{place}] "{message}""#)),
        Format::Json => milliseconds(&mut line).and_then(|()| writeln!(line, r#"{place}","v":0,"msg":"{message}"}}"#)),
    };
    // To write to a String never fails.
    written.map(|()| line).unwrap_or_default()
}

fn place(to: &mut impl Write, metadata: &Metadata<'_>) -> fmt::Result {
    let path = metadata.file().unwrap_or("???");
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    write!(to, "{file}:{}", metadata.line().unwrap_or(1))
}

/// Writes the message, which comes first, and the fields: numbers and booleans as they are, everything else in quotes.
struct Fields<'a> {
    line: Writer<'a>,
    format: Format,
    written: fmt::Result,
}

impl Fields<'_> {
    fn key(&mut self, name: &str) -> fmt::Result {
        match (self.format, name) {
            (Format::Text, "message") => self.line.write_char(' '),
            (Format::Text, _) => write!(self.line, " {name}="),
            (Format::Json, "message") => self.line.write_str(r#","msg":"#),
            (Format::Json, _) => write!(self.line, r#","{name}":"#),
        }
    }

    fn plain(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.written = self.written.and_then(|()| self.key(field.name())).and_then(|()| self.line.write_fmt(value));
    }

    fn quoted(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.plain(field, format_args!("\""));
        let written = self.written.and_then(|()| Escaped(&mut self.line).write_fmt(value));
        self.written = written.and_then(|()| self.line.write_char('"'));
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.quoted(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.quoted(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, format_args!("{value}"));
    }
}

/// Passes text on with escapes that are the same in Go and in JSON, so that it stays on one line.
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| match char {
            '"' | '\\' => write!(self.0, "\\{char}"),
            '\n' => self.0.write_str("\\n"),
            '\r' => self.0.write_str("\\r"),
            '\t' => self.0.write_str("\\t"),
            _ if char.is_control() => write!(self.0, "\\u{:04x}", u32::from(char)),
            _ => self.0.write_char(char),
        })
    }
}
