//! The machine as the control socket sees it: carries out commands, reports what it is and what it counted.
//!
//! Main loop's thread. It names no concrete device: what single devices can do is in [`Handles`], by their ids.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use nix::time::ClockId;
use nix::unistd::Pid;

use super::build::{Machine, SharedFunction};
use super::events::MachineEvent;
use super::handles::{ConsoleEnds, Handles};
use super::open::Stream;
use super::warnings::Warnings;
use crate::config::Plan;
use crate::control::v1::event::Kind;
use crate::control::v1::{
    BootMark, BootTimeline, Console, Device, DeviceFault, DeviceStatistics, ExitCount, ExitReason, GetStatistics,
    GuestPanicked, GuestReset, GuestShutdown, Info, PhaseChanged, QueueStatistics, RateLimit, Sandbox, Statistics,
    VcpuStatistics,
};
use crate::control::{
    CommandError, Commands, EventReceiver, EventSender, Listener, Phase, Server, ServerError, event_queue,
};
use crate::kvm::{self, ExitKind, VcpuCounters};
use crate::memory::PAGE_SIZE;
use crate::sandbox::{FdName, FdStore, FdStoreError, ProcessSandbox, Report};
use crate::telemetry::{QueueSnapshot, clock_ns, monotonic_ns, tell_warnings, timeline};
use crate::virtio::HostError;
use crate::virtio::pci::FaultListener;

/// Names that the store keeps for clients; the files that a machine starts with are not counted.
const MAX_FDS: usize = 256;

/// A vCPU's thread, as far as the statistics need it.
pub(super) struct VcpuThread {
    /// Thread id in this process's pid namespace.
    pub(super) id: Pid,
    /// Its exits.
    pub(super) counters: Arc<VcpuCounters>,
    /// `/proc/thread-self/schedstat`, where it could be opened.
    pub(super) schedule: Option<File>,
}

/// What the machine keeps for the control socket.
pub(super) struct ControlSide {
    pub(super) phase: Phase,
    pub(super) cpus: u32,
    pub(super) memory_bytes: u64,
    pub(super) functions: Vec<SharedFunction>,
    pub(super) handles: Handles,
    pub(super) fds: FdStore,
    pub(super) events: EventSender,
    receiver: Option<EventReceiver>,
    pub(super) vcpus: Vec<VcpuThread>,
    pub(super) sandbox: Option<ProcessSandbox>,
}

impl ControlSide {
    /// Takes over what is left of `fds`.
    pub(super) fn new(
        plan: &Plan,
        functions: Vec<SharedFunction>,
        handles: Handles,
        fds: &mut FdStore,
    ) -> Result<Self, HostError> {
        let (events, receiver) = event_queue().map_err(|e| HostError::new("Could not make an event fd", e))?;
        for function in &functions {
            let function = function.lock().unwrap_or_else(PoisonError::into_inner);
            function.on_fault(tell_faults(events.clone()));
        }
        if let Some(balloon) = &handles.balloon {
            let events = events.clone();
            balloon.on_statistics(Box::new(move |told| events.send(Kind::BalloonStatistics(told))));
        }
        let (warnings, sender) = (Mutex::new(Warnings::default()), events.clone());
        tell_warnings(Box::new(move |record| {
            let mut warnings = warnings.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(warning) = warnings.admit(record, monotonic_ns()) {
                sender.send(Kind::LogWarning(warning));
            }
        }));
        Ok(Self {
            phase: Phase::Creating,
            cpus: plan.cpus.count.into(),
            memory_bytes: plan.memory.size_bytes,
            functions,
            handles,
            fds: std::mem::take(fds),
            events,
            receiver: Some(receiver),
            vcpus: Vec::new(),
            sandbox: None,
        })
    }

    /// Makes the server, with the machine's consoles. Once.
    pub(super) fn serve(&mut self, listener: Option<Listener>) -> Result<Server, HostError> {
        let fail = |error: ServerError| HostError::new(error.to_string(), error.source);
        let twice = || HostError::new("The control server is made twice", io::ErrorKind::AlreadyExists.into());
        let mut server = Server::new(listener, self.receiver.take().ok_or_else(twice)?).map_err(fail)?;
        let consoles = [(Console::Serial, self.handles.serial.take()), (Console::Virtio, self.handles.console.take())];
        for (console, ends) in consoles {
            let Some(ConsoleEnds { output, input, stream }) = ends else { continue };
            server.add_console(console, output, input).map_err(fail)?;
            match stream {
                Stream::Listener(listener) => server.listen_for_viewers(console, listener).map_err(fail)?,
                Stream::Socket(socket) => {
                    let refused = |error: CommandError| HostError::new(error.to_string(), io::ErrorKind::Other.into());
                    server.attach_viewer(console, socket).map_err(refused)?;
                }
                Stream::Off | Stream::Stdio | Stream::File(_) => {}
            }
        }
        Ok(server)
    }

    /// Notes which phase the machine is in now, and tells subscribers if it is another one.
    pub(super) fn enter(&mut self, phase: Phase) {
        use crate::control::v1::Phase as Wire;
        if phase == self.phase {
            return;
        }
        let from = std::mem::replace(&mut self.phase, phase);
        let changed = PhaseChanged { from: Wire::from(from).into(), to: Wire::from(phase).into() };
        self.events.send(Kind::PhaseChanged(changed));
    }

    /// Tells subscribers what the guest did, if it is of a kind that they know.
    pub(super) fn tell(&self, event: &MachineEvent) {
        let kind = match event {
            MachineEvent::PowerOff => Kind::GuestShutdown(GuestShutdown {}),
            MachineEvent::Reset => Kind::GuestReset(GuestReset { source: "guest".to_owned() }),
            MachineEvent::ResetAsked => Kind::GuestReset(GuestReset { source: "control".to_owned() }),
            MachineEvent::Panicked => Kind::GuestPanicked(GuestPanicked { crash_loaded: false }),
            MachineEvent::CrashLoaded => Kind::GuestPanicked(GuestPanicked { crash_loaded: true }),
            MachineEvent::StopAsked | MachineEvent::Failed(_) => return,
        };
        self.events.send(kind);
    }

    fn devices(&self) -> Vec<Device> {
        let functions = self.functions.iter().map(|function| {
            let function = function.lock().unwrap_or_else(PoisonError::into_inner);
            let device = function.device();
            Device {
                id: device.id().to_owned(),
                kind: format!("{:?}", device.device_type()).to_lowercase(),
                queues: device.queue_sizes().len() as u32,
                features: function.negotiated_features(),
                needs_reset: function.needs_reset(),
            }
        });
        functions.collect()
    }

    fn device_statistics(&self, wanted: &[String]) -> Result<Vec<DeviceStatistics>, CommandError> {
        let mut found = Vec::new();
        for function in &self.functions {
            let function = function.lock().unwrap_or_else(PoisonError::into_inner);
            let device = function.device();
            if !wanted.is_empty() && !wanted.iter().any(|id| id == device.id()) {
                continue;
            }
            let counters = device.counters();
            let queues = counters.iter().zip(0..).map(|(counters, index)| queue(index, &counters.snapshot())).collect();
            found.push(DeviceStatistics { device_id: device.id().to_owned(), queues });
        }
        match wanted.iter().find(|id| !found.iter().any(|device| device.device_id == **id)) {
            Some(id) => Err(no_device(id, "device_ids")),
            None => Ok(found),
        }
    }

    fn vcpu_statistics(&self) -> Vec<VcpuStatistics> {
        let threads = self.vcpus.iter().zip(0..);
        threads
            .map(|(thread, index)| VcpuStatistics {
                index,
                exits: exits(&thread.counters),
                run_delay_ns: thread.schedule.as_ref().and_then(run_delay),
                cpu_time_ns: clock_ns(thread_clock(thread.id)),
            })
            .collect()
    }
}

/// Makes events of a device's failures.
fn tell_faults(events: EventSender) -> FaultListener {
    Box::new(move |id, error| {
        let message = error.to_string();
        events.send(Kind::DeviceFault(DeviceFault { device_id: id.to_owned(), message, needs_reset: true }));
    })
}

fn no_device(id: &str, field: &'static str) -> CommandError {
    CommandError::NotFound { kind: "device", name: id.to_owned(), field }
}

fn queue(index: u32, counted: &QueueSnapshot) -> QueueStatistics {
    let used = counted.latency.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    QueueStatistics {
        index,
        operations: counted.operations,
        bytes: counted.bytes,
        errors: counted.errors,
        guest_faults: counted.guest_faults,
        latency_buckets: counted.latency.iter().take(used).copied().collect(),
    }
}

/// What an exit is called in reports.
fn reason(kind: ExitKind) -> ExitReason {
    match kind {
        ExitKind::PortRead => ExitReason::PioRead,
        ExitKind::PortWrite => ExitReason::PioWrite,
        ExitKind::MmioRead => ExitReason::MmioRead,
        ExitKind::MmioWrite => ExitReason::MmioWrite,
        ExitKind::Interrupted => ExitReason::Interrupted,
        ExitKind::Other => ExitReason::Other,
    }
}

fn exits(counters: &VcpuCounters) -> Vec<ExitCount> {
    let counted = ExitKind::ALL.into_iter().zip(counters.snapshot()).filter(|(_, count)| *count > 0);
    counted.map(|(kind, count)| ExitCount { reason: reason(kind).into(), count }).collect()
}

/// The clock of the time that a thread of this process ran on a CPU: `CPUCLOCK_SCHED` with `CPUCLOCK_PERTHREAD`, see
/// `include/linux/posix-timers.h`.
fn thread_clock(id: Pid) -> ClockId {
    ClockId::from_raw(!id.as_raw() << 3 | 6)
}

/// The second number in schedstat: nanoseconds spent waiting on a run queue.
fn run_delay(schedule: &File) -> Option<u64> {
    let mut bytes = [0; 128];
    let length = schedule.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(bytes.get(..length)?).ok()?.split_whitespace().nth(1)?.parse().ok()
}

fn sandbox_facts(report: &Report) -> Sandbox {
    let sets = report.capabilities;
    Sandbox {
        enabled: true,
        no_new_privs: report.no_new_privs,
        capabilities_dropped: sets.effective | sets.permitted | sets.inheritable | sets.ambient == 0,
        landlock: report.landlock.abi > 0,
        seccomp: report.seccomp_filters > 0,
        namespaces: Vec::new(),
    }
}

fn fd_error(error: &FdStoreError, name: &str) -> CommandError {
    let name = name.to_owned();
    match error {
        FdStoreError::Missing(_) => CommandError::NotFound { kind: "descriptor", name, field: "name" },
        FdStoreError::Taken(_) => CommandError::AlreadyExists { kind: "descriptor", name, field: "name" },
        other => CommandError::InvalidValue { field: "name", value: name, reason: other.to_string() },
    }
}

impl Commands for Machine {
    fn phase(&self) -> Phase {
        self.control.phase
    }

    fn info(&self) -> Info {
        let sandbox = self.control.sandbox.as_ref().map(|sandbox| match sandbox.report() {
            Ok(report) => sandbox_facts(&report),
            Err(error) => {
                log::warn!("The sandbox cannot be read back: {error}");
                Sandbox { enabled: true, ..Sandbox::default() }
            }
        });
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            phase: crate::control::v1::Phase::from(self.control.phase).into(),
            cpus: self.control.cpus,
            memory_bytes: self.control.memory_bytes,
            devices: self.control.devices(),
            sandbox: Some(sandbox.unwrap_or_default()),
            fd_names: self.control.fds.names().map(|name| name.as_str().to_owned()).collect(),
        }
    }

    fn pause(&mut self) -> Result<(), CommandError> {
        self.gate.set(kvm::Phase::Paused);
        if let Some(reactor) = self.workers.get() {
            reactor.quiesce();
        }
        self.control.enter(Phase::Paused);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), CommandError> {
        if let Some(reactor) = self.workers.get() {
            reactor.resume();
        }
        self.control.enter(Phase::Running);
        self.gate.set(kvm::Phase::Running);
        Ok(())
    }

    fn press_power_button(&mut self) -> Result<(), CommandError> {
        let missing = || CommandError::Unsupported("This machine has no power button".to_owned());
        let press = self.control.handles.power_button.as_ref().ok_or_else(missing)?;
        press();
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        self.events.send(MachineEvent::ResetAsked);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        self.events.send(MachineEvent::StopAsked);
        Ok(())
    }

    fn set_balloon(&mut self, size_bytes: u64) -> Result<(), CommandError> {
        let missing = || CommandError::Unsupported("This machine has no balloon".to_owned());
        let balloon = self.control.handles.balloon.as_ref().ok_or_else(missing)?;
        if size_bytes >= self.control.memory_bytes {
            return Err(CommandError::InvalidValue {
                field: "size_bytes",
                value: size_bytes.to_string(),
                reason: format!("the machine has {} bytes, and some must be left", self.control.memory_bytes),
            });
        }
        balloon.set_target_bytes(size_bytes - size_bytes % PAGE_SIZE);
        Ok(())
    }

    fn set_rate_limit(&mut self, device_id: &str, limit: RateLimit) -> Result<(), CommandError> {
        let Some(device) = self.control.handles.limits.get(device_id) else {
            return Err(if self.control.devices().iter().any(|device| device.id == device_id) {
                CommandError::Unsupported(format!("{device_id} has no limits"))
            } else {
                no_device(device_id, "device_id")
            });
        };
        device.set_limit(&limit).map_err(|source| CommandError::Host { what: "set the limit", source })
    }

    fn add_fd(&mut self, name: &str, fd: OwnedFd) -> Result<(), CommandError> {
        let parsed: FdName = name.parse().map_err(|error: FdStoreError| fd_error(&error, name))?;
        if self.control.fds.names().count() >= MAX_FDS {
            return Err(CommandError::Exhausted { what: "descriptors", limit: MAX_FDS });
        }
        self.control.fds.insert(parsed, fd).map_err(|error| fd_error(&error, name))
    }

    fn take_fd(&mut self, name: &str) -> Result<OwnedFd, CommandError> {
        let parsed: FdName = name.parse().map_err(|error: FdStoreError| fd_error(&error, name))?;
        self.control.fds.take(&parsed).map_err(|error| fd_error(&error, name))
    }

    fn statistics(&self, selection: &GetStatistics) -> Result<Statistics, CommandError> {
        let devices = if selection.without_devices {
            Vec::new()
        } else {
            self.control.device_statistics(&selection.device_ids)?
        };
        let vcpus = if selection.without_vcpus { Vec::new() } else { self.control.vcpu_statistics() };
        let balloon = self.control.handles.balloon.as_ref().map(|balloon| {
            // What the guest answers shows the next time.
            balloon.request_statistics();
            balloon.statistics()
        });
        Ok(Statistics { time_ns: monotonic_ns(), vcpus, devices, balloon })
    }

    fn boot_timeline(&self) -> BootTimeline {
        let mark = |(step, time_ns): (crate::telemetry::Step, u64)| BootMark { name: step.name().to_owned(), time_ns };
        BootTimeline { marks: timeline().into_iter().map(mark).collect() }
    }
}

/// Opens a file of `/proc/thread-self`, by the directory `proc` or by path. Before the thread enters its filter.
pub(super) fn open_of_this_thread(proc: Option<BorrowedFd<'_>>, name: &str) -> io::Result<File> {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::Mode;

    let Some(proc) = proc else { return File::open(format!("/proc/thread-self/{name}")) };
    let place = format!("thread-self/{name}");
    Ok(openat(proc, place.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_a_clock_and_a_run_delay() {
        let busy = std::time::Instant::now();
        while busy.elapsed() < std::time::Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(clock_ns(thread_clock(nix::unistd::gettid())) > 0);
        let schedule = open_of_this_thread(None, "schedstat").expect("a kernel with schedstat");
        assert!(run_delay(&schedule).is_some());
    }

    #[test]
    fn empty_buckets_at_the_end_are_left_out() {
        let mut counted = QueueSnapshot::default();
        assert!(queue(0, &counted).latency_buckets.is_empty());
        counted.latency[2] = 7;
        assert_eq!(queue(1, &counted).latency_buckets, [0, 0, 7]);
    }
}
