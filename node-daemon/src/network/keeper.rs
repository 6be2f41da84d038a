//! Keeps the host as the networks want it: looks when the kernel tells of a change, when a DHCP server or a lease changes,
//! and again after a while when something is missing. One tokio task for the daemon's life.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::links::Links;
use super::world::{Condition, World};
use super::{Networks, named};
use crate::model::{Failure, Id, Network, NewEvent};

/// When all is well, it looks so often all the same: routes and files change without a word.
const QUIET: Duration = Duration::from_mins(1);
/// When something is missing: first wait, doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Changes come in bursts; each burst is looked at once.
const BURST: Duration = Duration::from_millis(200);

/// Runs until `shutdown`. What it has made stays.
pub async fn keep(networks: Networks, shutdown: CancellationToken) {
    let mut changes = match Links::changes() {
        Ok(changes) => changes.boxed(),
        Err(error) => {
            tracing::error!("changes of interfaces are noticed late: {}", error.chain());
            futures_util::stream::pending().boxed()
        }
    };
    let mut wait = FIRST_WAIT;
    loop {
        let pause = if networks.is_well().await { QUIET } else { wait };
        let next = Instant::now() + pause;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = networks.shared.told.notified() => networks.tell_changes().await,
            changed = networks.shared.leases.changed() => {
                if let Err(error) = changed {
                    tracing::error!("leases cannot be watched: {error}");
                    sleep(LONGEST_WAIT).await;
                }
                networks.note_leases().await;
            }
            change = changes.next() => {
                if change.is_none() {
                    tracing::error!("the kernel tells of no more changes of interfaces: they are noticed late");
                    changes = futures_util::stream::pending().boxed();
                }
                sleep(BURST).await;
                while let Some(Some(())) = changes.next().now_or_never() {}
                networks.settle_all().await;
            }
            () = sleep_until(next) => {
                networks.world().await.nft().distrust();
                networks.settle_all().await;
                networks.note_leases().await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
        if networks.is_well().await {
            wait = FIRST_WAIT;
        }
    }
}

impl Networks {
    /// At the start: takes all networks of the store in, brings them up, and removes what nobody has any more.
    pub(super) async fn adopt_all(&self) -> Result<(), Failure> {
        let stored = self.shared.store.read(|tx| tx.all::<Network>()).await?;
        {
            let mut world = self.world().await;
            for network in stored {
                world.adopt(network.record);
            }
            if let Err(error) = world.forget_gone().await {
                tracing::error!("{}", error.chain());
            }
            // A lost inventory is no reason to take away what running VMs use.
            if self.shared.store.kept_aside().is_none() {
                match world.sweep().await {
                    Ok(swept) if swept.is_empty() => {}
                    Ok(swept) => tracing::info!("removed interfaces of networks that are gone: {}", swept.join(", ")),
                    Err(error) => tracing::error!("cannot remove what is left of old networks: {}", error.chain()),
                }
            }
            world.read_leases();
        }
        self.settle_all().await;
        Ok(())
    }

    async fn is_well(&self) -> bool {
        self.world().await.networks.values().all(|live| live.condition == Condition::Ready)
    }

    /// Brings everything to what it shall be, and tells what has changed.
    pub(super) async fn settle_all(&self) {
        let ids: Vec<Id> = self.world().await.networks.keys().cloned().collect();
        for id in ids {
            // The lock is let go between networks, so that plugging does not wait for all of them.
            let mut world = self.world().await;
            self.settle_one(&mut world, &id).await;
        }
        let mut world = self.world().await;
        if let Err(error) = world.apply_filters().await {
            tracing::warn!("the filters are not as they shall be: {}", error.chain());
        }
        drop(world);
        self.tell_changes().await;
    }

    pub(super) async fn settle_one(&self, world: &mut World, id: &Id) {
        let hosts = match self.hosts(world).await {
            Ok(mut hosts) => hosts.remove(id).unwrap_or_default(),
            Err(failure) => {
                tracing::error!("cannot look up who has NICs: {}", failure.chain());
                return;
            }
        };
        // Kept as the network's condition.
        if let Err(error) = world.settle(id, &hosts).await {
            tracing::debug!("network {id}: {}", error.chain());
        }
        let directory = world.lease_directory(id);
        if directory.exists()
            && let Err(error) = self.shared.leases.add(&directory)
        {
            tracing::error!("cannot watch {}: {error}", directory.display());
        }
    }

    /// Tells whose condition is another than it was.
    pub(super) async fn tell_changes(&self) {
        let changed = self.world().await.judge();
        for (network, condition) in changed {
            let event = match &condition {
                Condition::Ready => NewEvent::info("network.ready", format!("Network {} works", network.name)),
                Condition::Degraded(reason) => {
                    let message = format!("Network {} does not work as it shall: {reason}", network.name);
                    NewEvent::warning("network.degraded", message).with("reason", reason)
                }
            };
            self.shared.events.tell(event.on(named(&network))).await;
        }
    }

    /// Reads the leases anew, and lets the filters know.
    pub(super) async fn note_leases(&self) {
        let mut world = self.world().await;
        let new = world.read_leases();
        if let Err(error) = world.apply_filters().await {
            tracing::warn!("the filters do not know the newest leases: {}", error.chain());
        }
        let told: Vec<NewEvent> =
            new.iter().filter_map(|(id, lease)| Some(lease_event(&world.networks.get(id)?.network, lease))).collect();
        drop(world);
        for event in told {
            self.shared.events.tell(event).await;
        }
    }
}

fn lease_event(network: &Network, lease: &super::Lease) -> NewEvent {
    let message = format!("{} has {} in network {}", lease.mac, lease.address, network.name);
    NewEvent::info("network.lease", message).on(named(network)).with("mac", lease.mac).with("address", lease.address)
}
