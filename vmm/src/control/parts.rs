//! What control asks of single devices, without knowing which they are.
//!
//! A device's row in the registry leaves an implementation behind; the machine finds it by the device's id. All calls come
//! from the main loop's thread and return at once.

use std::io;

use quantix_vmm_api::v1::{BalloonStatistics, RateLimit};

/// A device whose operations and bytes a second can be limited.
pub trait Limited: Send {
    /// Replaces both limits; 0 is no limit. Operations that wait are looked at again.
    ///
    /// # Errors
    /// The host's timers fail.
    fn set_limit(&self, limit: &RateLimit) -> io::Result<()>;
}

/// Hears what the guest says of its memory. Called by an I/O thread; must not block.
pub type StatisticsListener = Box<dyn Fn(BalloonStatistics) + Send + Sync>;

/// A device that takes memory from the guest.
pub trait BalloonControl: Send {
    /// Asks the guest to give up so many bytes. It does so when and as far as it likes.
    fn set_target_bytes(&self, bytes: u64);

    /// What the guest last said of its memory.
    fn statistics(&self) -> BalloonStatistics;

    /// Asks the guest to say it anew.
    fn request_statistics(&self);

    /// Has `listener` called whenever the guest has said it. The first listener stays.
    fn on_statistics(&self, listener: StatisticsListener);
}
