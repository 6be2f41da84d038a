//! The main thread once the machine is built: sandbox, threads, and then events until the guest ends.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::build::{BuildError, Machine};
use super::control::{VcpuThread, open_of_this_thread};
use super::events::MachineEvent;
use super::output::HeldOutput;
use super::terminal::{Keyboard, Typed};
use crate::control::{self, Server};
use crate::kvm::{self, Failure, Phase, VcpuStop};
use crate::reactor::Reactor;
use crate::sandbox::{self, Role};
use crate::telemetry::{Step, mark};
use crate::virtio::HostError;

/// Names standard input among what the loop waits for; everything else is looked at in every turn.
pub(super) const KEYBOARD: u64 = 1;
/// Names outputs that have room again.
const HELD: u64 = 2;

/// How a guest ended.
#[derive(Debug)]
pub enum Outcome {
    /// It switched itself off.
    PowerOff,
    /// It reset itself, and no reboot was asked for.
    Reset,
    /// It was to be reset, and could not be started again.
    NotReset(Box<BuildError>),
    /// Its kernel panicked.
    Panicked,
    /// A client of the control socket ended it.
    Stopped,
    /// KVM gave up on it.
    Failed(Box<Failure>),
}

/// The machine could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The sandbox could not be entered.
    #[error("The sandbox could not be entered; --no-sandbox runs without it")]
    Sandbox(#[from] sandbox::ProcessError),
    /// I/O threads could not be started.
    #[error("The I/O threads could not be started")]
    Reactor(#[from] crate::reactor::ReactorError),
    /// Anything else of the host.
    #[error("The machine could not be run")]
    Host(#[from] HostError),
}

fn host(what: &'static str) -> impl Fn(std::io::Error) -> HostError {
    move |source| HostError::new(what, source)
}

/// This thread's scheduling statistics. Nothing when the kernel or an empty root directory keeps them from us.
fn open_schedule(proc: Option<&OwnedFd>) -> Option<File> {
    let opened = open_of_this_thread(proc.map(AsFd::as_fd), "schedstat");
    opened.inspect_err(|error| log::debug!("The run delay of a vCPU will not be known: {error}")).ok()
}

/// Enters a thread's filter, or does nothing when the user asked for no sandbox. A thread that cannot must not go on.
fn enter(role: Role, sandboxed: bool) {
    if sandboxed && let Err(error) = sandbox::enter_thread(role) {
        log::error!("A thread could not enter its sandbox, so the process ends: {error}");
        std::process::exit(1);
    }
}

impl Machine {
    /// Runs the guest until it ends. `sandboxed`: give up all rights first.
    pub fn run(mut self, sandboxed: bool) -> Result<Outcome, RunError> {
        kvm::install_kick_handler().map_err(host("Could not install a signal handler"))?;
        let epoll = Epoll::new().map_err(host("Could not make an epoll set"))?;
        let watch = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.events.fd(), watch).map_err(host("Could not watch for events"))?;
        let mut server = self.server.take();
        if let Some(server) = &server {
            let watch = EpollEvent::new(EventSet::IN, 0);
            epoll.ctl(ControlOperation::Add, server.as_raw_fd(), watch).map_err(host("Could not watch for clients"))?;
        }
        let typist = self.control.handles.keyboard.take();
        let mut keyboard = typist.map(|input| Keyboard::open(&epoll, input)).transpose()?;
        let held = std::mem::take(&mut self.control.handles.held);
        for fd in held.iter().filter_map(|output| output.room_fd()) {
            let watch = EpollEvent::new(EventSet::OUT | EventSet::EDGE_TRIGGERED, HELD);
            // EPERM: a character device that is always ready, such as /dev/null.
            let _ = epoll.ctl(ControlOperation::Add, fd, watch);
        }
        if sandboxed {
            self.control.sandbox = Some(self.enter_process()?);
        } else {
            log::warn!("Running without a sandbox: a guest that breaks out has this process's rights");
        }
        let entrance: crate::reactor::Entrance = Arc::new(move || enter(Role::Io, sandboxed));
        self.workers.set(Reactor::new(self.io_threads, &entrance)?);
        let threads = self.start_vcpus(sandboxed)?;
        enter(Role::Main, sandboxed);
        if sandboxed {
            log::info!("Sandbox entered");
        }
        mark(Step::Sandbox);
        self.control.enter(control::Phase::Running);
        crate::memory::drop_startup_pages();
        mark(Step::FirstVcpuEntry);
        self.gate.set(Phase::Running);
        let outcome = self.watch(&epoll, server.as_mut(), keyboard.as_mut(), &held);
        drop(keyboard);
        self.gate.set(Phase::Stopped);
        self.control.enter(control::Phase::Stopped);
        if let Some(server) = server {
            server.finish();
        }
        for output in &held {
            output.finish();
        }
        for thread in threads {
            // A panic of a vCPU thread has been reported by the panic hook already.
            let _ = thread.join();
        }
        Ok(outcome)
    }

    /// Where the root directory is empty, the status file is passed as `status`, or `/proc` as `proc`.
    fn enter_process(&mut self) -> Result<sandbox::ProcessSandbox, sandbox::ProcessError> {
        if let Ok(status) = "status".parse().and_then(|name| self.control.fds.take(&name)) {
            return sandbox::enter_process_knowing(status.into());
        }
        let proc = "proc".parse().ok().and_then(|name| self.control.fds.borrow(&name).ok());
        let status = open_of_this_thread(proc, "status").map_err(sandbox::ProcessError::Status)?;
        sandbox::enter_process_knowing(status)
    }

    fn start_vcpus(&mut self, sandboxed: bool) -> Result<Vec<JoinHandle<()>>, HostError> {
        let (entered, all_entered) = std::sync::mpsc::channel();
        let mut threads = Vec::new();
        // Where the root directory is empty. Nobody needs it once the threads are there.
        let proc = "proc".parse().and_then(|name| self.control.fds.take(&name)).ok().map(Arc::new);
        for (index, (mut vcpu, counters)) in self.vcpus.drain(..).enumerate() {
            let (gate, buses, events) = (self.gate.clone(), self.buses.clone(), self.events.clone());
            let (entered, proc) = (entered.clone(), proc.clone());
            let body = move || {
                let (id, schedule) = (nix::unistd::gettid(), open_schedule(proc.as_deref()));
                drop(proc);
                enter(Role::Vcpu, sandboxed);
                // The receiver waits for all of us; it is gone only when another thread could not be started.
                let _ = entered.send((index, VcpuThread { id, counters: counters.clone(), schedule }));
                drop(entered);
                vcpu.run(&gate, buses.as_ref(), &counters, &|stop| match stop {
                    VcpuStop::TripleFault => events.send(MachineEvent::Reset),
                    VcpuStop::Failed(failure) => events.send(MachineEvent::Failed(failure)),
                });
            };
            let name = format!("vcpu{}", threads.len());
            let thread = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(body);
            threads.push(thread.map_err(host("Could not start a vCPU thread"))?);
        }
        drop(entered);
        let mut ready = Vec::new();
        for _ in &threads {
            let gone = |_| HostError::new("A vCPU thread ended at once", std::io::ErrorKind::BrokenPipe.into());
            ready.push(all_entered.recv().map_err(gone)?);
        }
        ready.sort_by_key(|(index, _)| *index);
        self.control.vcpus = ready.into_iter().map(|(_, thread)| thread).collect();
        Ok(threads)
    }

    fn watch(
        &mut self,
        epoll: &Epoll,
        mut server: Option<&mut Server>,
        mut keyboard: Option<&mut Keyboard>,
        held: &[Arc<HeldOutput>],
    ) -> Outcome {
        let mut events = [EpollEvent::default(); 8];
        loop {
            let ready = match epoll.wait(-1, &mut events) {
                Ok(count) => events.get(..count).unwrap_or_default(),
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::Interrupted {
                        log::error!("The main thread cannot wait for events: {error}");
                    }
                    &[]
                }
            };
            let typed = ready.iter().any(|event| event.data() == KEYBOARD);
            if ready.iter().any(|event| event.data() == HELD) {
                for output in held {
                    output.flush();
                }
            }
            // Clients first: the answer to a command that ends the machine has gone out then.
            if let Some(server) = server.as_deref_mut()
                && let Err(error) = server.on_ready(self)
            {
                log::error!("{error}: {}", error.source);
            }
            if let Some(keyboard) = keyboard.as_deref_mut()
                && keyboard.serve(typed, epoll) == Typed::Stop
            {
                return Outcome::Stopped;
            }
            while let Some(event) = self.events.take() {
                self.control.tell(&event);
                match event {
                    MachineEvent::PowerOff => return Outcome::PowerOff,
                    MachineEvent::Reset if !self.reboot => return Outcome::Reset,
                    MachineEvent::Reset | MachineEvent::ResetAsked => {
                        if let Err(error) = self.power_on_again() {
                            return Outcome::NotReset(Box::new(error));
                        }
                        self.control.enter(control::Phase::Running);
                        self.gate.set(Phase::Running);
                    }
                    MachineEvent::Panicked => return Outcome::Panicked,
                    MachineEvent::CrashLoaded => log::warn!("The guest's kernel crashed and loads another"),
                    MachineEvent::StopAsked => return Outcome::Stopped,
                    MachineEvent::Failed(failure) => return Outcome::Failed(failure),
                }
            }
        }
    }
}
