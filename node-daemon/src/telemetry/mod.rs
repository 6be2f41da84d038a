//! Metrics, their history, alarms, and timelines. Must not decide anything.
//!
//! One task of the async runtime samples the node and the VMs each second of the monotonic clock. The wall clock is only
//! put on answers, so a clock that jumps moves no point and tears no hole; the jump itself is told as an event.

#![forbid(unsafe_code)]

mod alarms;
mod conditions;
mod history;
mod prometheus;
mod reading;
mod series;
#[cfg(test)]
mod tests;
mod timeline;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::host::Host;
use crate::model::{Failure, Id, NewEvent, ResourceKind, Time};

pub use alarms::Alarms;
pub use history::{Points, Subject};
pub use reading::{Allocation, NodeReading, VmReading, VmSource};
pub use series::SeriesInfo;
pub use timeline::{Moment, OpenSpan, Report, ReportedSpan, Timeline};

use conditions::{ClockWatch, Space};
use history::History;
use prometheus::Snapshot;

/// How often is sampled.
const TICK: Duration = Duration::from_secs(1);
/// How long the VMs may take to say how they are.
const READING: Duration = Duration::from_millis(900);
/// In ticks: how often free space is looked at.
const SPACE_EVERY: u64 = 10;

/// Measured values of the node and its VMs; cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

struct Shared {
    host: Host,
    events: Events,
    alarms: Alarms,
    /// Its free space is watched.
    state_dir: PathBuf,
    vms: OnceLock<Arc<dyn VmSource>>,
    history: Mutex<History>,
    latest: Arc<Mutex<Snapshot>>,
    registry: Mutex<Registry>,
    /// When slot 0 of the history was.
    begin: Instant,
}

impl Telemetry {
    /// Nothing is sampled before `run`.
    pub fn new(host: Host, events: Events, state_dir: PathBuf) -> Self {
        let latest = Arc::<Mutex<Snapshot>>::default();
        let alarms = Alarms::new(events.clone());
        let shared = Shared {
            host,
            events,
            alarms,
            state_dir,
            vms: OnceLock::new(),
            history: Mutex::default(),
            registry: Mutex::new(prometheus::registry(latest.clone())),
            latest,
            begin: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Says who knows the VMs. Only the first call counts.
    pub fn attach_vms(&self, vms: Arc<dyn VmSource>) {
        if self.shared.vms.set(vms).is_err() {
            tracing::error!("Two rooms say that they know the VMs; the second is not heard");
        }
    }

    /// Lets a room add metrics of its own to `/metrics`; names get the prefix `quantix_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut lock(&self.shared.registry));
    }

    /// What is wrong at the moment.
    pub fn alarms(&self) -> &Alarms {
        &self.shared.alarms
    }

    /// What is promised to VMs.
    pub fn allocation(&self) -> Allocation {
        self.shared.vms.get().map(|vms| vms.allocation()).unwrap_or_default()
    }

    /// All metrics as Prometheus reads them (text of `OpenMetrics`).
    ///
    /// # Errors
    /// When a room's metric cannot be written.
    pub fn prometheus(&self) -> Result<String, Failure> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &lock(&self.shared.registry))
            .map_err(|error| Failure::internal("The metrics cannot be written", error))?;
        Ok(text)
    }

    /// Values over time, of the node or of the VM with this id or name.
    ///
    /// # Errors
    /// `InvalidArgument` for a series that there is not, `NotFound` for a VM that there is not.
    pub async fn history(&self, vm: &str, names: &[String], window: Duration) -> Result<Vec<Points>, Failure> {
        let subject = match (vm.is_empty(), self.shared.vms.get()) {
            (true, _) => Subject::Node,
            (false, Some(vms)) => Subject::Vm(vms.find(vm.to_owned()).await?),
            (false, None) => return Err(Failure::not_found(ResourceKind::Vm, vm)),
        };
        let chosen = series::choose(&subject, names)?;
        let now = self.slot();
        Ok(lock(&self.shared.history).read(&subject, &chosen, window, (now, Time::now())))
    }

    /// Forgets what was measured of a VM that was deleted.
    pub fn forget_vm(&self, id: &Id) {
        lock(&self.shared.history).forget(&Subject::Vm(id.clone()));
    }

    /// Samples until `shutdown`.
    pub fn run(&self, shutdown: CancellationToken) {
        let telemetry = self.clone();
        tokio::spawn(async move {
            let mut ticks = interval(TICK);
            // After a pause of the machine the missed slots stay empty; they are not made up in a burst.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut clock = ClockWatch::start(Time::now(), Moment::now());
            let sampling = async {
                loop {
                    ticks.tick().await;
                    telemetry.sample(&mut clock).await;
                }
            };
            tokio::select! {
                () = sampling => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    fn slot(&self) -> u64 {
        self.shared.begin.elapsed().as_secs()
    }

    /// One tick.
    async fn sample(&self, clock: &mut ClockWatch) {
        let shared = &self.shared;
        let slot = self.slot();
        if let Some(jump) = clock.look(Time::now(), Moment::now()) {
            let message =
                format!("The machine's clock jumped by {jump:+.1} s; what is ordered by sequence is not touched");
            shared.events.tell(NewEvent::warning("host.clock-jumped", message).with("seconds", jump)).await;
        }
        let node = reading::node(shared.host.roots());
        let vms = match shared.vms.get() {
            // One VMM that hangs must not stop the node's clockwork.
            Some(vms) => timeout(READING, vms.readings()).await.unwrap_or_else(|_| {
                tracing::warn!("VMs did not say how they are within {READING:?}");
                Vec::new()
            }),
            None => Vec::new(),
        };
        if slot.is_multiple_of(SPACE_EVERY) {
            let space = Space::of(&shared.state_dir);
            for (key, sentence) in conditions::judge(&node, space.as_ref(), |key| shared.alarms.is_raised(key)) {
                match sentence {
                    Some(sentence) => shared.alarms.raise(key, &sentence).await,
                    None => shared.alarms.clear(key).await,
                }
            }
        }
        lock(&shared.history).put(slot, &node, &vms);
        *lock(&shared.latest) = Snapshot { node, vms, allocation: self.allocation() };
    }
}

/// What these mutexes hold is replaced or appended to whole, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
