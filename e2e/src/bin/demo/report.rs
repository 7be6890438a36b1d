//! What the demo prints.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

const HEADER: [&str; 4] = ["what", "from → to", "expected", "seen"];
/// Of all columns but the last, in characters.
const WIDTHS: [usize; 3] = [31, 37, 31];

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// A table of checks, printed as they are made, and the count of those that passed.
#[derive(Debug)]
pub(crate) struct Report {
    colours: bool,
    checks: usize,
    passed: usize,
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) route: String,
    pub(crate) expected: String,
    pub(crate) seen: String,
    pub(crate) ok: bool,
}

impl Report {
    /// With colours if a person reads it.
    pub(crate) fn to_stdout() -> Self {
        Self { colours: io::stdout().is_terminal(), checks: 0, passed: 0 }
    }

    /// Begins the demo.
    pub(crate) fn title(&self, text: &str) {
        println!("{}\n", self.painted(BOLD, text));
    }

    /// Names the columns.
    pub(crate) fn header(&self) {
        let [what, route, expected, seen] = HEADER;
        println!("\n{}", self.painted(DIM, &format!("   {}{seen}", columns([what, route, expected]))));
    }

    /// Begins a step.
    pub(crate) fn heading(&self, text: &str) {
        println!("\n{}", self.painted(BOLD, text));
    }

    /// Something worth knowing that is no check.
    pub(crate) fn note(&self, text: &str) {
        for line in text.lines() {
            println!("{}", self.painted(DIM, &format!("   {line}")));
        }
    }

    /// Prints and counts a check.
    pub(crate) fn check(&mut self, row: &Row) {
        self.checks += 1;
        self.passed += usize::from(row.ok);
        let mark = if row.ok { self.painted(GREEN, "✓") } else { self.painted(RED, "✗") };
        let seen = if row.ok { row.seen.clone() } else { self.painted(RED, &row.seen) };
        println!(" {mark} {}{seen}", columns([&row.what, &row.route, &row.expected]));
    }

    /// Whether all checks so far passed, and there was one.
    pub(crate) const fn all_passed(&self) -> bool {
        self.checks > 0 && self.passed == self.checks
    }

    /// What helps to find out why something failed.
    pub(crate) fn trouble(&self, log_tail: &str, log: &Path) {
        println!("\n{}\nThe full log: {}", self.painted(DIM, log_tail), log.display());
    }

    /// The last line.
    pub(crate) fn summary(&self) {
        let colour = if self.all_passed() { GREEN } else { RED };
        let text = format!("demo: {} of {} checks passed", self.passed, self.checks);
        println!("\n{}", self.painted(colour, &text));
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A time, with as many digits as mean something.
pub(crate) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

fn columns(cells: [&str; 3]) -> String {
    let cell = |(text, width): (&str, usize)| format!("{text:width$} ");
    cells.into_iter().zip(WIDTHS).map(cell).collect()
}
