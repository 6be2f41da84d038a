//! The daemon's side of a VMM's control socket: one method a command, each with its deadline. Any task; clones share the
//! connection. Whatever comes from there is hostile: sizes are bounded, texts are shortened before they are shown, and a VMM
//! that does not answer costs its caller the deadline and nobody else anything.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use quantix_vmm_api::call::{Call, CallError};
use quantix_vmm_api::client::{Client, ClientError, EventStream};
use quantix_vmm_api::transport::TransportError;
use quantix_vmm_api::v1;
use quantix_vmm_api::v1::{BootTimeline, ConsoleAttached, EventKind, Info, Statistics};

use crate::model::{Failure, FailureKind};

/// For what a VMM answers from memory.
const QUICK: Duration = Duration::from_secs(3);
/// For coming to rest: requests that are on their way to a disk have to come back.
const REST: Duration = Duration::from_secs(15);
/// Longest text of a VMM that is repeated to people, in characters.
const SHOWN: usize = 300;

/// A VMM did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[error("The VMM could not {wanted}")]
pub struct VmmClientError {
    wanted: &'static str,
    source: ClientError,
}

impl VmmClientError {
    /// Whether the connection has ended.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.source, ClientError::Disconnected)
    }

    /// The refusal's code, when it is one.
    fn code(&self) -> Option<v1::ErrorCode> {
        match &self.source {
            ClientError::Call(CallError::Refused(error)) => Some(error.code()),
            _ => None,
        }
    }
}

impl From<VmmClientError> for Failure {
    fn from(error: VmmClientError) -> Self {
        let kind = match (&error.source, error.code()) {
            (ClientError::Deadline { .. }, _) => FailureKind::DeadlineExceeded,
            (_, Some(v1::ErrorCode::WrongPhase | v1::ErrorCode::Unsupported)) => FailureKind::FailedPrecondition,
            (_, Some(v1::ErrorCode::ResourceExhausted)) => FailureKind::ResourceExhausted,
            (_, Some(_)) => FailureKind::Internal,
            _ => FailureKind::Unavailable,
        };
        let cause: String = error.source.to_string().chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        Self::new(kind, format!("{error}: {cause}"))
    }
}

/// A connection to one VMM.
#[derive(Debug, Clone)]
pub struct VmmClient {
    client: Client,
}

impl VmmClient {
    /// Connects. Must be called within the runtime. Whether the VMM answers shows with the first call.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, TransportError> {
        Client::connect(path).map(|client| Self { client })
    }

    async fn call<C: Call>(
        &self,
        wanted: &'static str,
        command: C,
        deadline: Duration,
    ) -> Result<C::Reply, VmmClientError> {
        self.client.call(command, deadline).await.map_err(|source| VmmClientError { wanted, source })
    }

    /// What the machine is; waits so long for a VMM that is still starting.
    pub async fn info(&self, patience: Duration) -> Result<Info, VmmClientError> {
        self.call("say what it is", v1::GetInfo {}, patience).await
    }

    /// Stops vCPUs and devices; returns when they stand still.
    pub async fn pause(&self) -> Result<(), VmmClientError> {
        self.call("pause the guest", v1::Pause {}, REST).await.map(drop)
    }

    /// Lets the guest go on.
    pub async fn resume(&self) -> Result<(), VmmClientError> {
        self.call("resume the guest", v1::Resume {}, QUICK).await.map(drop)
    }

    /// Presses the power button.
    pub async fn press_power_button(&self) -> Result<(), VmmClientError> {
        self.call("press the power button", v1::PressPowerButton {}, QUICK).await.map(drop)
    }

    /// Presses the reset button.
    pub async fn reset(&self) -> Result<(), VmmClientError> {
        self.call("reset the guest", v1::Reset {}, QUICK).await.map(drop)
    }

    /// Pulls the plug.
    pub async fn stop(&self) -> Result<(), VmmClientError> {
        self.call("end the guest", v1::Stop {}, QUICK).await.map(drop)
    }

    /// Sets how much memory the balloon takes.
    pub async fn set_balloon(&self, size_bytes: u64) -> Result<(), VmmClientError> {
        self.call("set the balloon", v1::SetBalloon { size_bytes }, QUICK).await.map(drop)
    }

    /// Limits a device; `None` is no limit.
    pub async fn set_rate_limit(
        &self,
        device_id: &str,
        operations: Option<u64>,
        bytes: Option<u64>,
    ) -> Result<(), VmmClientError> {
        let limit =
            v1::RateLimit { operations_per_second: operations.unwrap_or(0), bytes_per_second: bytes.unwrap_or(0) };
        let command = v1::SetRateLimit { device_id: device_id.to_owned(), limit: Some(limit) };
        self.call("limit the device", command, QUICK).await.map(drop)
    }

    /// Connects one end of a stream socket to the serial port.
    pub async fn attach_console(&self, socket: OwnedFd) -> Result<ConsoleAttached, VmmClientError> {
        let command = v1::AttachConsole { console: v1::Console::Serial.into() };
        let attached = self.client.call_with_fds(command, &[socket.as_fd()], QUICK).await;
        attached.map(|(reply, _)| reply).map_err(|source| VmmClientError { wanted: "attach the console", source })
    }

    /// Takes a descriptor out of the VMM's store.
    pub async fn take_fd(&self, name: &str) -> Result<OwnedFd, VmmClientError> {
        let wanted = "give a descriptor back";
        let refused = |source| VmmClientError { wanted, source };
        let command = v1::TakeFd { name: name.to_owned() };
        let (_, fds) = self.client.call_with_fds(command, &[], QUICK).await.map_err(refused)?;
        fds.into_iter().next().ok_or_else(|| refused(ClientError::Call(CallError::WrongAnswer)))
    }

    /// Puts a copy of a descriptor into the VMM's store.
    pub async fn add_fd(&self, name: &str, fd: &OwnedFd) -> Result<(), VmmClientError> {
        let command = v1::AddFd { name: name.to_owned() };
        let added = self.client.call_with_fds(command, &[fd.as_fd()], QUICK).await;
        added.map(drop).map_err(|source| VmmClientError { wanted: "take a descriptor", source })
    }

    /// Events from now on; waits so long for a VMM that is still starting.
    pub async fn events(&self, patience: Duration) -> Result<EventStream, VmmClientError> {
        let kinds = [EventKind::PhaseChanged, EventKind::GuestPanicked, EventKind::GuestPower, EventKind::DeviceFault];
        let events = self.client.events(&kinds, patience).await;
        events.map_err(|source| VmmClientError { wanted: "send events", source })
    }

    /// All counters, in as many answers as they need.
    pub async fn statistics(&self) -> Result<Statistics, VmmClientError> {
        const WANTED: &str = "count";
        let whole = self.call(WANTED, v1::GetStatistics::default(), QUICK).await;
        if whole.as_ref().err().and_then(VmmClientError::code) != Some(v1::ErrorCode::ResourceExhausted) {
            return whole;
        }
        let request = v1::GetStatistics { without_devices: true, ..v1::GetStatistics::default() };
        let mut all = self.call(WANTED, request, QUICK).await?;
        for device in self.info(QUICK).await?.devices {
            let request =
                v1::GetStatistics { without_vcpus: true, device_ids: vec![device.id], without_devices: false };
            all.devices.extend(self.call(WANTED, request, QUICK).await?.devices);
        }
        Ok(all)
    }

    /// When each step of the start happened.
    pub async fn boot_timeline(&self) -> Result<BootTimeline, VmmClientError> {
        self.call("tell its timeline", v1::GetBootTimeline {}, QUICK).await
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.client.closed().await;
    }
}
