//! The log lines that documents name are those of the source.

#![allow(clippy::unwrap_used, reason = "the files are those of the repository")]

use std::fs;
use std::path::Path;

/// In them, `…` stands for what differs.
#[test]
fn the_log_lines_in_documents_are_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let mut source = String::new();
    collect(&root.join("crates"), &mut source);
    let (readme, faults) = (read("README.md"), read("docs/faults.md"));
    let wrong = readme.split_once("\n### When something is wrong\n").unwrap().1.split_once("\n## ").unwrap().0;
    let first = wrong.lines().filter_map(|row| row.strip_prefix("| ")?.split_once('|'));
    let last = faults.lines().filter_map(|row| row.strip_suffix('|')?.rsplit_once('|'));
    let said: Vec<&str> = first.map(|(first, _)| first).chain(last.map(|(_, last)| last)).collect();
    assert!(said.len() > 30, "{said:#?}");
    let lines = said.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let parts = lines.flat_map(|line| line.split('…').map(str::trim));
    let missing: Vec<_> = parts.filter(|part| !source.contains(part)).collect();
    assert!(missing.is_empty(), "no line of the log has {missing:#?}");
}

/// The source of all crates but this one, without the ends of lines that a string is continued after.
fn collect(directory: &Path, source: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("testing") {
            collect(&path, source);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut parts = text.split("\\\n");
            source.push_str(parts.next().unwrap_or_default());
            parts.for_each(|part| source.push_str(part.trim_start()));
        }
    }
}
