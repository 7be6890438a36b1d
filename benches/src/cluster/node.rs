//! One node: the binary, and an API server that counts what it is asked for and sends.

use std::ops::Sub;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, mem, thread};

use anyhow::{Result, ensure};
use e2e::{Proxy, Settings};
use serde_json::{Value, json};
use testing::api::{Expiry, FakeApi};
use testing::netns::Cluster;
use testing::scale::{LOCAL_NODE, Scale};

use crate::{WATCHES, objects};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
/// How long nothing changes but the Node's heartbeat, which comes as often if nothing else happens there.
const QUIET: Duration = Duration::from_mins(5);
/// How often the server tells watches how far it is.
const BOOKMARKS: Duration = Duration::from_mins(1);
/// How many endpoints change in a second, and for how long.
const RATE: u32 = 20;
const CHURN: Duration = Duration::from_mins(1);
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(2);

/// What one node has asked an API server for in some time, and was sent: bodies, without heads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) lists: u64,
    pub(crate) list_bytes: u64,
    pub(crate) watches: u64,
    pub(crate) watch_bytes: u64,
    pub(crate) others: u64,
    /// How long that took.
    pub(crate) time: Duration,
}

/// Something that happens, and what is asked for meanwhile.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// It goes on, so that what counts is how much there is in a second; else it is over after that.
    pub(crate) goes_on: bool,
    pub(crate) asked: Asked,
}

/// What one node costs.
pub(crate) struct Share {
    pub(crate) phases: Vec<Phase>,
    /// Connections that are open when all is quiet.
    pub(crate) connections: usize,
}

/// Measures it.
pub(crate) fn measure() -> Result<Share> {
    let scale = Scale::new(SERVICES, ENDPOINTS);
    let cluster = Arc::new(Cluster::new()?);
    let api = cluster.node.run(FakeApi::start)?;
    (0..SERVICES).for_each(|i| api.put(objects::service(scale, i)));
    (0..SERVICES).for_each(|i| api.put(objects::slice(scale, i, 0)));
    api.put(objects::node(0));
    api.put(testing::objects::service_cidr("kubernetes", &["10.96.0.0/12"]));
    api.bookmark_every(BOOKMARKS);

    let files = tempfile::tempdir()?;
    let mut proxy = Proxy::prepare(cluster.clone())?;
    proxy.follow(LOCAL_NODE, &api.kubeconfig(files.path())?);
    let mut counter = Counter::new(&api);
    let mut phases = Vec::new();
    proxy.run(&Settings::default())?;
    counter.until_watching(WATCHES)?;
    phases.push(counter.phase("start", false));

    thread::sleep(QUIET / 2);
    api.put(objects::node(1));
    thread::sleep(QUIET / 2);
    phases.push(counter.phase("quiet", true));
    let connections = connections(&cluster, &api)?;

    churn(&api, scale);
    phases.push(counter.phase("churn", true));

    api.compact(Expiry::Event);
    api.expire_watches();
    counter.until_watching(WATCHES)?;
    phases.push(counter.phase("history lost", false));

    api.go_down();
    thread::sleep(AWAY);
    api.come_up()?;
    counter.until_watching(WATCHES)?;
    phases.push(counter.phase("restart", false));
    Ok(Share { phases, connections })
}

/// Changes endpoints, each of another Service than the one before.
fn churn(api: &FakeApi, scale: Scale) {
    let began = Instant::now();
    for n in 0..RATE * CHURN.as_secs() as u32 {
        thread::sleep((began + n * Duration::from_secs(1) / RATE).saturating_duration_since(Instant::now()));
        api.put(objects::slice(scale, n * 7 % SERVICES, n / SERVICES + 1));
    }
    thread::sleep((began + CHURN).saturating_duration_since(Instant::now()));
}

/// Tells what is asked for in each phase.
struct Counter<'a> {
    api: &'a FakeApi,
    began: Instant,
    before: Asked,
}

impl<'a> Counter<'a> {
    fn new(api: &'a FakeApi) -> Self {
        Self { api, began: Instant::now(), before: Asked::default() }
    }

    /// What was asked for so far.
    fn total(&self) -> Asked {
        let mut asked = Asked { time: self.began.elapsed(), ..Asked::default() };
        for request in self.api.requests() {
            let (count, bytes) = match request.right.as_ref().map(|right| right.verb.as_str()) {
                Some("list") => (&mut asked.lists, &mut asked.list_bytes),
                Some("watch") => (&mut asked.watches, &mut asked.watch_bytes),
                _ => (&mut asked.others, &mut 0),
            };
            *count += 1;
            *bytes += request.sent();
        }
        asked
    }

    /// Ends a phase; the next one begins.
    fn phase(&mut self, name: &'static str, goes_on: bool) -> Phase {
        let total = self.total();
        Phase { name, goes_on, asked: total - mem::replace(&mut self.before, total) }
    }

    /// Waits until so many watches were opened in this phase.
    fn until_watching(&self, watches: usize) -> Result<()> {
        let began = Instant::now();
        while (self.total() - self.before).watches < watches as u64 {
            ensure!(began.elapsed() < PATIENCE, "{watches} watches were not opened within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Sub for Asked {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            lists: self.lists - before.lists,
            list_bytes: self.list_bytes - before.list_bytes,
            watches: self.watches - before.watches,
            watch_bytes: self.watch_bytes - before.watch_bytes,
            others: self.others - before.others,
            time: self.time - before.time,
        }
    }
}

/// How many connections to the API server are open.
fn connections(cluster: &Cluster, api: &FakeApi) -> Result<usize> {
    let port: u16 = api.url().rsplit(':').next().unwrap_or_default().parse()?;
    let table = cluster.node.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
    // The third column is the other end, in hexadecimal, the fourth the state, of which 01 is ESTABLISHED (proc_net_tcp).
    let to_it = |line: &&str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        columns[2].ends_with(&format!(":{port:04X}")) && columns[3] == "01"
    };
    Ok(table.lines().skip(1).filter(to_it).count())
}

impl Share {
    pub(crate) fn to_json(&self) -> Value {
        let phase = |Phase { name, asked, .. }: &Phase| {
            let seconds = asked.time.as_secs_f64();
            let figures = json!({
                "seconds": seconds, "lists": asked.lists, "list_bytes": asked.list_bytes, "watches": asked.watches,
                "watch_bytes": asked.watch_bytes, "other_requests": asked.others,
            });
            ((*name).to_owned(), figures)
        };
        let phases: serde_json::Map<_, _> = self.phases.iter().map(phase).collect();
        json!({"services": SERVICES, "endpoints": ENDPOINTS, "changes_a_second": RATE, "connections": self.connections, "phases": phases})
    }
}
