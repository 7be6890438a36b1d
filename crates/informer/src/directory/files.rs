//! The files of the directory as they were last read.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, mem};

use model::{Kind, Node, NodeStatus, ServiceName, Update};
use tracing::info;

use super::manifest::{self, Content, Entry};
use crate::convert::{self, Converted, Converter, NodeRead, Proxied};
use crate::lenient::Lenient;
use crate::problem::{Problem, Reporter};
use crate::slim::{self, ApiObject};

/// The manifests of a directory, each with the last good version of its objects.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    converter: Converter,
    reporter: Reporter,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug, Default)]
struct File {
    /// Of the text that `objects` was read from.
    hash: u64,
    objects: Vec<Object>,
    nodes: Vec<Node>,
    problems: Vec<Problem>,
}

#[derive(Clone, Debug)]
struct Object {
    id: (Kind, ServiceName),
    kind: &'static str,
    update: Update,
}

impl Files {
    pub(crate) fn new(directory: PathBuf, node_name: Arc<str>, reporter: Reporter) -> Self {
        Self { directory, converter: Converter::new(node_name), reporter, files: BTreeMap::new() }
    }

    /// Reads what changed. A file that cannot be read, in part or at all, keeps what was last read from it.
    ///
    /// # Errors
    /// The directory itself cannot be listed; nothing changes then.
    pub(crate) fn read(&mut self) -> io::Result<()> {
        let paths = manifests(&self.directory)?;
        let mut old = mem::take(&mut self.files);
        for path in paths {
            let file = old.remove(&path);
            if let Some(file) = self.read_file(&path, file) {
                self.files.insert(path, file);
            }
        }
        for (path, file) in old {
            self.reporter.forget(FILE, &path.to_string_lossy());
            file.names().for_each(|(kind, name)| self.reporter.forget(kind, &name));
        }
        Ok(())
    }

    /// The Node of this name.
    pub(super) fn node(&self, name: &str) -> NodeStatus {
        let mut nodes = self.files.values().flat_map(|file| &file.nodes);
        nodes.find(|node| *node.name == *name).map_or(NodeStatus::Missing, |node| NodeStatus::Known(node.clone()))
    }

    /// All objects as complete lists. Of an object that several files hold, the first file's counts.
    pub(crate) fn updates(&self) -> Vec<Update> {
        let mut seen = BTreeMap::new();
        let mut objects = Vec::new();
        for (path, file) in &self.files {
            let mut problems = file.problems.clone();
            for object in &file.objects {
                match seen.entry(&object.id) {
                    btree_map::Entry::Vacant(new) => {
                        new.insert(path);
                        objects.push(object);
                    }
                    btree_map::Entry::Occupied(first) => {
                        let (kind, name, first) = (object.kind, &object.id.1, first.get().display());
                        let message = format!("{kind} {name} is already in {first}: this one is ignored");
                        problems.push(problem(path, "", message));
                    }
                }
            }
            self.reporter.report(FILE, &path.to_string_lossy(), &problems);
        }
        let mut updates = Vec::with_capacity(objects.len() + 6);
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::ServiceCidr] {
            updates.push(Update::ListStarted(kind));
            updates.extend(objects.iter().filter(|object| object.id.0 == kind).map(|object| object.update.clone()));
            updates.push(Update::ListComplete(kind));
        }
        updates
    }

    /// `None` if the file does not exist any more.
    fn read_file(&mut self, path: &Path, old: Option<File>) -> Option<File> {
        let old = old.unwrap_or_default();
        let problems = match text(path).transpose()? {
            Ok(text) if text.is_empty() && !(old.objects.is_empty() && old.nodes.is_empty()) => {
                // Whoever is about to write the file has emptied it first.
                vec![problem(path, "", format!("is empty: {KEPT} (remove the file to remove its objects)"))]
            }
            Ok(text) if hash(&text) == old.hash => return Some(old),
            Ok(text) => return Some(self.take(path, &text, old)),
            Err(message) => vec![problem(path, "", format!("{message}: {KEPT}"))],
        };
        Some(File { hash: 0, problems, ..old })
    }

    fn take(&mut self, path: &Path, text: &str, old: File) -> File {
        let mut file = File { hash: hash(text), ..File::default() };
        for Entry { place, content } in manifest::parse(path, text) {
            let converted = match content {
                Ok(Content::Service(raw)) => self.convert(raw.as_ref()),
                Ok(Content::Slice(raw)) => self.convert(&raw),
                Ok(Content::ServiceCidr(raw)) => self.convert(&raw),
                Ok(Content::Node(raw)) => match self.convert_node(&raw) {
                    Ok(node) => {
                        file.nodes.push(node);
                        continue;
                    }
                    Err(message) => Err(message),
                },
                Ok(Content::Other(kind)) => {
                    let path = path.display();
                    info!(file = %path, place, kind, "ignoring an object that is no Service, EndpointSlice, ServiceCIDR or Node");
                    continue;
                }
                Err(message) => Err(message),
            };
            match converted {
                Ok(object) => file.objects.push(object),
                Err(message) => file.problems.push(problem(path, &place, format!("{message}: {KEPT}"))),
            }
        }
        if file.problems.is_empty() {
            let present: BTreeSet<_> = file.names().collect();
            let gone = old.names().filter(|name| !present.contains(name));
            gone.for_each(|(kind, name)| self.reporter.forget(kind, &name));
        } else {
            file.keep(old);
        }
        file
    }

    /// What an object means, or why it means nothing. Its other problems are reported under its own name.
    fn convert<T: Proxied>(&mut self, raw: &Lenient<T>) -> Result<Object, String> {
        let Converted { object, update, problems } = T::convert(&mut self.converter, raw);
        let update = update.ok_or_else(|| unusable(T::KIND, &problems))?;
        self.reporter.report(T::KIND, &object, &problems);
        Ok(Object { id: identity(&update), kind: T::KIND, update })
    }

    fn convert_node(&self, raw: &Lenient<slim::Node>) -> Result<Node, String> {
        let NodeRead { name, node, problems } = convert::node(raw);
        let node = node.ok_or_else(|| unusable(slim::Node::KIND, &problems))?;
        self.reporter.report(slim::Node::KIND, &name, &problems);
        Ok(node)
    }
}

impl File {
    /// The kinds and names of its objects, as problems call them.
    fn names(&self) -> impl Iterator<Item = (&'static str, String)> {
        let objects = self.objects.iter().map(|object| (object.kind, object.id.1.to_string()));
        objects.chain(self.nodes.iter().map(|node| (slim::Node::KIND, node.name.to_string())))
    }

    /// Adds what `old` had besides: any of it may be what an unreadable part is about.
    fn keep(&mut self, old: Self) {
        let objects: BTreeSet<_> = self.objects.iter().map(|object| object.id.clone()).collect();
        self.objects.extend(old.objects.into_iter().filter(|object| !objects.contains(&object.id)));
        let nodes: BTreeSet<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.nodes.extend(old.nodes.into_iter().filter(|node| !nodes.contains(&node.name)));
    }
}

/// Why there is nothing to be made of an object.
fn unusable(kind: &str, problems: &[Problem]) -> String {
    let why: Vec<_> = problems.iter().map(|problem| format!("{} {}", problem.field, problem.message)).collect();
    format!("{kind}: {}", why.join(", ").trim())
}

/// All Nodes in a directory, in order of files; broken documents are left to [`Files`] to report.
pub(super) fn nodes(directory: &Path, reporter: &Reporter) -> io::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for path in manifests(directory)? {
        let Ok(Some(text)) = text(&path) else { continue };
        for entry in manifest::parse(&path, &text) {
            let Ok(Content::Node(raw)) = entry.content else { continue };
            let NodeRead { name, node, problems } = convert::node(&raw);
            reporter.report(slim::Node::KIND, &name, &problems);
            nodes.extend(node);
        }
    }
    Ok(nodes)
}

/// What is in a file, or why it cannot be used; `None` if it does not exist any more.
fn text(path: &Path) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        Ok(_) if bytes.len() as u64 > LARGEST => {
            Err(format!("has more than {} MiB: divide it into several files", LARGEST >> 20))
        }
        Ok(_) => String::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The largest file that is read, in bytes: twenty thousand Services and their slices fit. The memory that it takes to read one is
/// some multiple of this.
const LARGEST: u64 = 16 << 20;

/// What problems of files call their kind.
const FILE: &str = "file";
/// What happens when a file, or a part of it, cannot be read.
const KEPT: &str = "what was last read from the file stays in use";

/// The manifests in a directory, in order of their names. Directories within it are not entered.
fn manifests(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // What cannot be looked at is told when it is read. A pipe would be waited for for ever. This follows symbolic
        // links, of which ConfigMap volumes consist.
        let is_something_else = || fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file());
        if manifest::is_manifest(&path) && !is_something_else() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn problem(path: &Path, place: &str, message: String) -> Problem {
    Problem::new(FILE, path.to_string_lossy(), place, message)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn identity(update: &Update) -> (Kind, ServiceName) {
    match update {
        Update::Service(service) => (Kind::Service, service.name.clone()),
        Update::Slice(slice) => (Kind::EndpointSlice, slice.name.clone()),
        Update::ServiceGone(name) => (Kind::Service, name.clone()),
        Update::SliceGone(name) => (Kind::EndpointSlice, name.clone()),
        Update::ServiceCidr(cidr) => (Kind::ServiceCidr, ServiceName::new("", cidr.name.clone())),
        Update::ServiceCidrGone(name) => (Kind::ServiceCidr, ServiceName::new("", name.clone())),
        Update::Unreadable(kind, name) => (*kind, name.clone()),
        Update::ListStarted(_) | Update::ListComplete(_) | Update::Zone(_) => {
            unreachable!("conversion yields updates of objects only")
        }
    }
}
