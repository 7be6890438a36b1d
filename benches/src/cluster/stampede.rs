//! Five thousand nodes whose API server fails all of them at once: when they ask again.
//!
//! Each node runs the product's own watches. The server is a function, and time is not waited for.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testing::crowd::{Answer, Crowd, Health};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::{NODES, WATCHES};

/// How long all is well before the fault: less than the shortest watch.
const WELL: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

/// What the API server does to all nodes at once.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// How it is after all watches have ended, and for how long.
    health: Health,
    lasts: Duration,
    /// It has forgotten its history when it is well again: lists are needed.
    forgets: bool,
}

pub(crate) const FAULTS: [Fault; 5] = [
    Fault::new("watches cut", Health::Well, 0),
    Fault::new("away for 30 s", Health::Away, 30),
    Fault { forgets: true, ..Fault::new("away for 30 s, history lost", Health::Away, 30) },
    Fault::new("away for 5 min", Health::Away, 300),
    Fault::new("429, Retry-After: 1, for 30 s", Health::Busy(SECOND), 30),
];

/// How the nodes came back.
pub(crate) struct Comeback {
    pub(crate) fault: Fault,
    /// Requests that were answered, by second, from when the watches ended.
    pub(crate) by_second: Vec<usize>,
    /// Those of them that were lists.
    pub(crate) lists_by_second: Vec<usize>,
    /// From when the server was well again until so many of a hundred watches were open again.
    pub(crate) half: Duration,
    pub(crate) most: Duration,
}

impl Fault {
    const fn new(name: &'static str, health: Health, seconds: u64) -> Self {
        Self { name, health, lasts: Duration::from_secs(seconds), forgets: false }
    }
}

/// Does it to all nodes.
pub(crate) fn simulate(fault: Fault) -> Result<Comeback> {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let crowd = Crowd::default();
        for _ in 0..NODES {
            let server = crowd.clone();
            tokio::spawn(informer::simulation::node(move |uri| server.answer(uri)));
        }
        let back = async |since, percent| {
            crowd.until_watching(since, NODES * WATCHES * percent / 100).await;
            Instant::now()
        };
        back(Instant::now(), 100).await;
        sleep(WELL).await;

        let failed = Instant::now();
        crowd.set(fault.health);
        crowd.cut();
        sleep(fault.lasts).await;
        if fault.forgets {
            crowd.forget();
        }
        crowd.set(Health::Well);
        let well = Instant::now();
        let [half, most] = [back(failed, 50).await - well, back(failed, 99).await - well];
        back(failed, 100).await;
        let requests: Vec<_> = crowd.requests().into_iter().filter(|request| request.0 >= failed).collect();
        let by_second = |which: fn(Answer) -> bool| {
            let times = requests.iter().filter(|request| which(request.1)).map(|request| request.0 - failed);
            by_second(times)
        };
        let (reached, lists) =
            (by_second(|answer| answer != Answer::Refused), by_second(|answer| answer == Answer::Listed));
        Ok(Comeback { fault, by_second: reached, lists_by_second: lists, half, most })
    })
}

impl Comeback {
    /// The most requests within a second.
    pub(crate) fn most_in_a_second(&self) -> usize {
        self.by_second.iter().copied().max().unwrap_or_default()
    }

    /// The most lists within a second.
    pub(crate) fn most_lists_in_a_second(&self) -> usize {
        self.lists_by_second.iter().copied().max().unwrap_or_default()
    }

    /// How many there were in a second, until 99 % of the watches were open again.
    pub(crate) fn mean_in_a_second(&self) -> f64 {
        let time = self.most.as_secs_f64();
        self.since_well().iter().take(time.ceil() as usize).sum::<usize>() as f64 / time
    }

    /// Requests by second, from when the server was well again.
    pub(crate) fn since_well(&self) -> &[usize] {
        self.by_second.get(self.fault.lasts.as_secs() as usize..).unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "fault": self.fault.name,
            "lasts_s": self.fault.lasts.as_secs(),
            "by_second": self.by_second,
            "lists_by_second": self.lists_by_second,
            "most_in_a_second": self.most_in_a_second(),
            "most_lists_in_a_second": self.most_lists_in_a_second(),
            "mean_in_a_second": self.mean_in_a_second(),
            "half_back_s": self.half.as_secs_f64(),
            "99_percent_back_s": self.most.as_secs_f64(),
        })
    }
}

fn by_second(times: impl Iterator<Item = Duration>) -> Vec<usize> {
    let mut counts = Vec::new();
    for second in times.map(|time| time.as_secs() as usize) {
        counts.resize(counts.len().max(second + 1), 0);
        counts[second] += 1;
    }
    counts
}
