//! A file of a manifest directory: whatever is in it, the other files count, and what was read from it stays when it is broken.
#![no_main]

use std::fs;

use fuzz::{done, path, write};
use informer::fuzz::Directory;
use libfuzzer_sys::fuzz_target;
use model::Update;

// The first byte tells whether the file is YAML or JSON; the rest is in it.
fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else { return };
    let name = if first % 2 == 0 { "b.yaml" } else { "b.json" };
    write("a.yaml", GOOD);
    let file = write(name, content);
    let mut directory = Directory::new(path(""));
    let read = done(directory.read());
    let is_good = |update: &Update| matches!(update, Update::Service(service) if &*service.name.name == "good");
    assert_eq!(read.iter().filter(|update| is_good(update)).count(), 1);
    assert!(format!("{read:?}").len() <= 5_000 + 1_000 * content.len(), "it has grown");
    write(name, "{");
    assert_eq!(format!("{:?}", done(directory.read())), format!("{read:?}"), "what was read stays");
    done(fs::remove_file(file));
});

const GOOD: &str = "kind: Service\nmetadata: {name: good}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
