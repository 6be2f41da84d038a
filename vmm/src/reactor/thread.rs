//! One I/O thread: its inbox, its epoll set, its workers.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EfdFlags;
use nix::time::{ClockId, clock_gettime};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::polling::{Budget, MAX, PREEMPTED};
use crate::virtio::{Interest, Polled, Source, Worker, WorkerError, WorkerGroup};

/// Most events taken from epoll at once.
const BATCH: usize = 32;
/// The serial number that stands for the inbox in epoll data.
const INBOX: u32 = 0;
/// While polling, how often the epoll set is looked at for the workers that do not poll.
const GLANCE: Duration = Duration::from_micros(20);

/// A worker and who it belongs to.
pub struct Slot {
    serial: u32,
    group: WorkerGroup,
    worker: Box<dyn Worker>,
    registered: Vec<Source>,
    on_error: Arc<dyn Fn(WorkerError) + Send + Sync>,
    hot: bool,
}

impl Slot {
    /// A worker that no thread has yet.
    pub fn new(group: WorkerGroup, worker: Box<dyn Worker>, on_error: Arc<dyn Fn(WorkerError) + Send + Sync>) -> Self {
        Self { serial: INBOX, group, worker, registered: Vec::new(), on_error, hot: false }
    }
}

/// What other threads ask of an I/O thread. A dropped sender means: done.
pub enum Command {
    /// Take this worker.
    Start(Slot),
    /// Drop the workers of a group.
    Stop(WorkerGroup, mpsc::Sender<()>),
    /// Let workers finish and hold still.
    Quiesce(mpsc::Sender<()>),
    /// Go on.
    Resume(mpsc::Sender<()>),
    /// End.
    Exit,
}

fn eventfd() -> io::Result<File> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    Ok(File::from(OwnedFd::from(nix::sys::eventfd::EventFd::from_flags(flags)?)))
}

/// How other threads reach an I/O thread.
pub struct Inbox {
    commands: Mutex<VecDeque<Command>>,
    /// Set while `commands` is not empty: cheap to look at while polling.
    waiting: AtomicBool,
    wake: File,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> io::Result<Self> {
        Ok(Self { commands: Mutex::default(), waiting: AtomicBool::new(false), wake: eventfd()? })
    }

    /// Leaves a command and wakes the thread.
    pub fn send(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.waiting.store(true, Ordering::Release);
        // EAGAIN: the counter is full, the thread is due anyway.
        let _ = (&self.wake).write(&1_u64.to_ne_bytes());
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn take(&self) -> VecDeque<Command> {
        let _ = (&self.wake).read(&mut [0; 8]);
        self.waiting.store(false, Ordering::Release);
        std::mem::take(&mut self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Prepares a thread's epoll set; the returned closure is the thread's body.
pub fn run(inbox: Arc<Inbox>) -> io::Result<impl FnOnce() + Send> {
    let epoll = Epoll::new()?;
    let event = EpollEvent::new(EventSet::IN, u64::from(INBOX) << 32);
    epoll.ctl(ControlOperation::Add, inbox.wake.as_raw_fd(), event)?;
    let host_cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(move || {
        let looper = Loop {
            inbox,
            epoll,
            slots: Vec::new(),
            next_serial: INBOX + 1,
            paused: false,
            budget: Budget::new(host_cpus),
        };
        looper.run();
    })
}

struct Loop {
    inbox: Arc<Inbox>,
    epoll: Epoll,
    slots: Vec<Slot>,
    next_serial: u32,
    paused: bool,
    budget: Budget,
}

impl Loop {
    fn run(mut self) {
        let mut events = vec![EpollEvent::default(); BATCH];
        let mut found = false;
        loop {
            if self.paused {
                self.wait_for_inbox();
                if !self.obey() {
                    return;
                }
                continue;
            }
            let asleep = Instant::now();
            let count = self.wait(-1, &mut events);
            self.budget.woken(asleep.elapsed(), found);
            if !self.dispatch(events.get(..count).unwrap_or_default()) {
                return;
            }
            found = self.poll_while_busy(&mut events);
            if self.inbox.waiting.load(Ordering::Acquire) && !self.obey() {
                return;
            }
        }
    }

    /// Sleeps until a command comes. While paused, the sources stay ready: the epoll set would not let us sleep.
    fn wait_for_inbox(&self) {
        let wake = self.inbox.poll_fd();
        // An interrupted wait only makes the caller look into an empty inbox.
        let _ = nix::poll::poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], PollTimeout::NONE);
    }

    fn wait(&self, timeout_ms: i32, events: &mut [EpollEvent]) -> usize {
        match self.epoll.wait(timeout_ms, events) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    log::error!("An I/O thread cannot wait for events: {error}");
                }
                0
            }
        }
    }

    /// Calls the workers that events are for; false when the thread is to end.
    fn dispatch(&mut self, events: &[EpollEvent]) -> bool {
        for event in events {
            let (serial, token) = ((event.data() >> 32) as u32, event.data() as u32);
            if serial == INBOX {
                if !self.obey() {
                    return false;
                }
                continue;
            }
            if self.paused {
                continue;
            }
            // A worker that is gone since the events were taken has no slot any more.
            if let Some(index) = self.slots.iter().position(|slot| slot.serial == serial) {
                self.call(index, |worker| worker.on_event(token).map(|()| Polled::Worked));
            }
        }
        true
    }

    /// Calls a worker; one that fails is dropped and its owner told. `None` when it failed.
    fn call(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut dyn Worker) -> Result<Polled, WorkerError>,
    ) -> Option<Polled> {
        let slot = self.slots.get_mut(index)?;
        match work(slot.worker.as_mut()) {
            Ok(polled) => {
                if polled == Polled::Worked {
                    slot.hot = true;
                }
                if slot.worker.sources_changed() {
                    register(&self.epoll, slot);
                }
                Some(polled)
            }
            Err(error) => {
                let mut slot = self.slots.swap_remove(index);
                unregister(&self.epoll, &mut slot);
                let Slot { worker, on_error, .. } = slot;
                drop(worker);
                on_error(error);
                None
            }
        }
    }

    /// Calls every worker (or every hot one) in turn; true when one of them worked.
    fn call_all(&mut self, hot_only: bool, work: impl Fn(&mut dyn Worker) -> Result<Polled, WorkerError>) -> bool {
        let mut worked = false;
        let mut index = 0;
        while let Some(slot) = self.slots.get(index) {
            if hot_only && !slot.hot {
                index += 1;
                continue;
            }
            match self.call(index, &work) {
                Some(polled) => {
                    worked |= polled == Polled::Worked;
                    index += 1;
                }
                // Its place has another worker now.
                None => worked = true,
            }
        }
        worked
    }

    /// Looks for more work until the budget has passed in vain, or the CPU is needed by others; true when looking paid.
    fn poll_while_busy(&mut self, events: &mut [EpollEvent]) -> bool {
        let mut budget = self.budget.get();
        if budget.is_zero() || self.paused || !self.slots.iter().any(|slot| slot.hot) {
            return false;
        }
        let (mut found, mut preempted) = (false, false);
        self.call_all(true, |worker| worker.start_polling().map(|()| Polled::Idle));
        loop {
            let mut last_work = Instant::now();
            let mut last_glance = last_work;
            let mut ran = thread_time();
            while !self.inbox.waiting.load(Ordering::Acquire) {
                let worked = self.call_all(true, |worker| worker.poll());
                let now = Instant::now();
                if worked {
                    found = true;
                    last_work = now;
                } else if now.duration_since(last_work) >= budget {
                    break;
                }
                let since_glance = now.duration_since(last_glance);
                if since_glance >= GLANCE {
                    last_glance = now;
                    let ran_before = std::mem::replace(&mut ran, thread_time());
                    if since_glance.saturating_sub(ran.saturating_sub(ran_before)) >= PREEMPTED {
                        self.budget.preempted();
                        budget = Duration::ZERO;
                        preempted = true;
                    }
                    let count = self.wait(0, events);
                    if !self.dispatch_others(events.get(..count).unwrap_or_default()) {
                        break;
                    }
                }
                std::hint::spin_loop();
            }
            let slipped_in = self.call_all(true, |worker| worker.stop_polling());
            if !slipped_in || self.inbox.waiting.load(Ordering::Acquire) {
                break;
            }
            self.call_all(true, |worker| worker.start_polling().map(|()| Polled::Idle));
        }
        for slot in &mut self.slots {
            slot.hot = false;
        }
        found && !preempted
    }

    /// Events for workers during polling; the inbox waits until polling has ended. False when it has something.
    fn dispatch_others(&mut self, events: &[EpollEvent]) -> bool {
        for event in events {
            let serial = (event.data() >> 32) as u32;
            if serial == INBOX {
                return false;
            }
            if let Some(index) = self.slots.iter().position(|slot| slot.serial == serial) {
                let token = event.data() as u32;
                let was_hot = self.slots.get(index).is_some_and(|slot| slot.hot);
                self.call(index, |worker| worker.on_event(token).map(|()| Polled::Worked));
                if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.serial == serial) {
                    // A worker joins the polling only from its start on.
                    slot.hot = was_hot;
                }
            }
        }
        true
    }

    /// Carries out what the inbox holds; false when the thread is to end.
    fn obey(&mut self) -> bool {
        for command in self.inbox.take() {
            match command {
                Command::Start(slot) => self.start(slot),
                Command::Stop(group, _done) => self.stop(group),
                Command::Quiesce(_done) => {
                    self.paused = true;
                    self.call_all(false, |worker| worker.quiesce().map(|()| Polled::Idle));
                }
                Command::Resume(_done) => {
                    self.paused = false;
                    self.call_all(false, |worker| worker.resume().map(|()| Polled::Worked));
                }
                Command::Exit => return false,
            }
        }
        true
    }

    fn start(&mut self, mut slot: Slot) {
        slot.serial = self.next_serial;
        self.next_serial = self.next_serial.checked_add(1).unwrap_or(INBOX + 1);
        register(&self.epoll, &mut slot);
        self.slots.push(slot);
        if !self.paused {
            // Kicks and back-end events may have come before the fds were registered.
            let index = self.slots.len() - 1;
            self.call(index, |worker| worker.resume().map(|()| Polled::Worked));
        }
    }

    fn stop(&mut self, group: WorkerGroup) {
        let (stopped, kept): (Vec<_>, Vec<_>) = self.slots.drain(..).partition(|slot| slot.group == group);
        self.slots = kept;
        for mut slot in stopped {
            unregister(&self.epoll, &mut slot);
        }
    }
}

/// How long this thread has run on a CPU; nothing passes if the kernel does not tell.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn events_of(interest: Interest) -> EventSet {
    match interest {
        Interest::Readable => EventSet::IN,
        Interest::Writable => EventSet::OUT,
        Interest::ReadableEdge => EventSet::IN | EventSet::EDGE_TRIGGERED,
        Interest::BothEdge => EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED,
    }
}

fn same(a: &Source, b: &Source) -> bool {
    a.fd == b.fd && a.token == b.token && a.interest == b.interest
}

/// Brings the epoll set in line with the worker's sources.
fn register(epoll: &Epoll, slot: &mut Slot) {
    let wanted = slot.worker.sources();
    for old in slot.registered.iter().filter(|old| !wanted.iter().any(|new| same(old, new))) {
        // A closed fd has left the set by itself.
        let _ = epoll.ctl(ControlOperation::Delete, old.fd, EpollEvent::default());
    }
    for new in wanted.iter().filter(|new| !slot.registered.iter().any(|old| same(old, new))) {
        let data = u64::from(slot.serial) << 32 | u64::from(new.token);
        if let Err(error) = epoll.ctl(ControlOperation::Add, new.fd, EpollEvent::new(events_of(new.interest), data)) {
            log::error!("An I/O thread cannot watch fd {}: {error}", new.fd);
        }
    }
    slot.registered = wanted;
}

fn unregister(epoll: &Epoll, slot: &mut Slot) {
    for source in slot.registered.drain(..) {
        let _ = epoll.ctl(ControlOperation::Delete, source.fd, EpollEvent::default());
    }
}

const _: () = assert!(MAX.as_micros() < 1000, "polling must stay invisible in CPU accounting of an idle guest");
