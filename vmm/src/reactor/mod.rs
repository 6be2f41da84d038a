//! I/O threads: they wait for the fds of device workers, call the workers, and poll adaptively while there is work.
//!
//! The only room that spawns threads besides vCPUs. It knows nothing of what a device means.
//!
//! ```text
//! vCPU thread ── start/stop ──► inbox ──wake──► I/O thread: epoll_wait → Worker::on_event
//! main thread ── quiesce/resume ─┘                    └─ while busy: start_polling, poll…, stop_polling
//! ```

mod polling;
mod thread;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use self::thread::{Command, Inbox, Slot};
use crate::virtio::{Worker, WorkerError, WorkerGroup, WorkerHost};

/// The I/O threads could not be started.
#[derive(Debug, thiserror::Error)]
#[error("Could not start I/O thread {index}")]
pub struct ReactorError {
    /// Number of the thread.
    pub index: usize,
    /// What the host said.
    pub source: std::io::Error,
}

struct Thread {
    inbox: Arc<Inbox>,
    join: Option<JoinHandle<()>>,
}

/// The I/O threads of a VM. Dropping it ends them, and their workers.
pub struct Reactor {
    threads: Vec<Thread>,
    next_group: AtomicU64,
}

/// What each thread does first, before it touches anything of the guest: entering its sandbox.
pub type Entrance = Arc<dyn Fn() + Send + Sync>;

impl Reactor {
    /// Starts `count` threads; each calls `entrance` first, and all have done so when this returns.
    pub fn new(count: usize, entrance: &Entrance) -> Result<Self, ReactorError> {
        let (entered, all_entered) = mpsc::channel();
        let mut threads = Vec::new();
        for index in 0..count {
            let fail = |source| ReactorError { index, source };
            let inbox = Arc::new(Inbox::new().map_err(fail)?);
            let (entrance, entered) = (entrance.clone(), entered.clone());
            let run = thread::run(inbox.clone()).map_err(fail)?;
            let body = move || {
                entrance();
                // The receiver waits for all of us; it is gone only when another thread could not be started.
                let _ = entered.send(());
                drop(entered);
                run();
            };
            let join =
                std::thread::Builder::new().name(format!("io{index}")).stack_size(STACK).spawn(body).map_err(fail)?;
            threads.push(Thread { inbox, join: Some(join) });
        }
        drop(entered);
        for index in 0..count {
            let gone = |_| ReactorError { index, source: std::io::Error::other("the thread ended in its entrance") };
            all_entered.recv().map_err(gone)?;
        }
        Ok(Self { threads, next_group: AtomicU64::new(0) })
    }

    /// Has every worker finish what is in flight and stay off guest memory until [`Self::resume`].
    pub fn quiesce(&self) {
        self.tell_all(Command::Quiesce);
    }

    /// Ends [`Self::quiesce`].
    pub fn resume(&self) {
        self.tell_all(Command::Resume);
    }

    /// Sends a command to every thread and waits until all have carried it out.
    fn tell_all(&self, command: impl Fn(mpsc::Sender<()>) -> Command) {
        let (done, all_done) = mpsc::channel();
        for thread in &self.threads {
            thread.inbox.send(command(done.clone()));
        }
        drop(done);
        // Ends when every thread has dropped its sender: done, or the thread is gone.
        while all_done.recv().is_ok() {}
    }
}

/// Stack of an I/O thread in bytes. Workers keep their buffers on the heap.
const STACK: usize = 256 << 10;

impl WorkerHost for Reactor {
    fn start(&self, workers: Vec<Box<dyn Worker>>, on_error: Arc<dyn Fn(WorkerError) + Send + Sync>) -> WorkerGroup {
        let group = WorkerGroup(self.next_group.fetch_add(1, Ordering::Relaxed));
        for (worker, thread) in workers.into_iter().zip(self.threads.iter().cycle()) {
            thread.inbox.send(Command::Start(Slot::new(group, worker, on_error.clone())));
        }
        group
    }

    fn stop(&self, group: WorkerGroup) {
        self.tell_all(|done| Command::Stop(group, done));
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.inbox.send(Command::Exit);
        }
        for thread in &mut self.threads {
            if let Some(join) = thread.join.take() {
                // A panic in a worker has been reported by the panic hook already.
                let _ = join.join();
            }
        }
    }
}
