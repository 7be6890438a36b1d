//! The thread that serves, and how it goes down and up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::{Shared, handlers};
use crate::children;

/// Whether it listens on this address.
type Answer = Result<SocketAddr>;

/// A thread that serves or is down. All of it belongs to the network namespace in which it was started.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    orders: mpsc::UnboundedSender<Order>,
    /// One order at a time.
    answers: Mutex<std_mpsc::Receiver<Answer>>,
}

#[derive(Debug)]
enum Order {
    Down,
    Up,
    BookmarkEvery(Duration),
}

impl Server {
    pub(super) fn start(address: SocketAddr, shared: Arc<Shared>) -> Result<Self> {
        let (orders, to_do) = mpsc::unbounded_channel();
        let (done, answers) = std_mpsc::channel();
        thread::Builder::new()
            .name("fake API".to_owned())
            .spawn(move || run(address, &shared, to_do, &done))
            .context("cannot start a thread for the fake API server")?;
        let address = next(&answers)?;
        Ok(Self { address, orders, answers: Mutex::new(answers) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn go_down(&self) {
        self.order(Order::Down).expect("going down takes nothing that could be refused");
    }

    pub(super) fn come_up(&self) -> Result<()> {
        self.order(Order::Up)
    }

    pub(super) fn bookmark_every(&self, interval: Duration) {
        self.order(Order::BookmarkEvery(interval)).expect("it is only noted");
    }

    fn order(&self, order: Order) -> Result<()> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.orders.send(order).context("the thread of the fake API server has ended")?;
        next(&answers).map(drop)
    }
}

fn next(answers: &std_mpsc::Receiver<Answer>) -> Answer {
    answers.recv().context("the thread of the fake API server has ended")?
}

/// Carries out orders until nobody can give any more. Whatever it drops is gone when it answers.
fn run(
    mut address: SocketAddr,
    shared: &Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    answers: &std_mpsc::Sender<Answer>,
) {
    let mut interval = None;
    let mut runtime = None;
    let mut order = Some(Order::Up);
    while let Some(current) = order {
        let answer = match current {
            Order::Up if runtime.is_some() => Ok(address),
            Order::Up => listen(address, shared).map(|(started, actual)| {
                runtime = Some(started);
                address = actual;
                actual
            }),
            Order::Down => {
                // All tasks die with it, and all connections with them.
                children::close(runtime.take());
                Ok(address)
            }
            Order::BookmarkEvery(wanted) => {
                interval = Some(wanted);
                Ok(address)
            }
        };
        if answers.send(answer).is_err() {
            return;
        }
        order = match &runtime {
            Some(runtime) => runtime.block_on(next_order(&mut orders, interval, shared)),
            None => orders.blocking_recv(),
        };
    }
}

/// Listens, in a task of a new runtime. The runtime works only while something blocks on it.
fn listen(address: SocketAddr, shared: &Arc<Shared>) -> Result<(Runtime, SocketAddr)> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the fake API server")?;
    let refused = || format!("the fake API server cannot listen on {address}");
    let listener = runtime.block_on(TcpListener::bind(address)).with_context(refused)?;
    let address = listener.local_addr().with_context(refused)?;
    let router = handlers::router(shared.clone());
    // As Go sets it for all of a server's connections. Otherwise an event may wait for the acknowledgement of the one before it, 40 ms.
    // That it cannot be set means that the client has gone.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    runtime.spawn(async { axum::serve(listener, router).await });
    Ok((runtime, address))
}

/// The next order; sends bookmarks meanwhile.
async fn next_order(
    orders: &mut mpsc::UnboundedReceiver<Order>,
    interval: Option<Duration>,
    shared: &Shared,
) -> Option<Order> {
    let Some(interval) = interval else {
        return orders.recv().await;
    };
    loop {
        tokio::select! {
            order = orders.recv() => return order,
            () = tokio::time::sleep(interval) => shared.lock().store.bookmark(),
        }
    }
}
