//! Limits failures by name and by address, in a fixed amount of memory. Pure but for the clock, which is handed in.
//!
//! Keys share a fixed number of buckets by a keyed hash: whoever makes up names cannot make the table grow or push another
//! name out of it; two keys in one bucket only make it stricter.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets of a table.
const BUCKETS: usize = 4096;

/// How much a table lets through.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// So many at once.
    burst: f64,
    /// One more after so long.
    every: Duration,
}

/// Failures that one name may have.
const BY_NAME: Rate = Rate { burst: 10.0, every: Duration::from_secs(6) };
/// Failures that one address may have, whatever the names.
const BY_ADDRESS: Rate = Rate { burst: 20.0, every: Duration::from_secs(3) };

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    since: Instant,
}

/// Buckets of tries, shared by keys.
#[derive(Debug)]
struct Table {
    rate: Rate,
    keys: RandomState,
    buckets: Mutex<Vec<Bucket>>,
}

impl Table {
    fn new(rate: Rate, now: Instant) -> Self {
        let buckets = Mutex::new(vec![Bucket { left: rate.burst, since: now }; BUCKETS]);
        Self { rate, keys: RandomState::new(), buckets }
    }

    fn with<T>(&self, key: &impl Hash, now: Instant, change: impl FnOnce(&mut f64) -> T) -> T {
        let at = usize::try_from(self.keys.hash_one(key) % BUCKETS as u64).unwrap_or(0);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = &mut buckets[at];
        let earned = now.saturating_duration_since(bucket.since).as_secs_f64() / self.rate.every.as_secs_f64();
        *bucket = Bucket { left: (bucket.left + earned).min(self.rate.burst), since: now };
        change(&mut bucket.left)
    }

    /// Takes one try; the error says how long until there is one.
    fn take(&self, key: &impl Hash, now: Instant) -> Result<(), Duration> {
        self.with(key, now, |left| {
            if *left < 1.0 {
                return Err(self.rate.every.mul_f64(1.0 - *left));
            }
            *left -= 1.0;
            Ok(())
        })
    }

    fn give_back(&self, key: &impl Hash, now: Instant) {
        let burst = self.rate.burst;
        self.with(key, now, |left| *left = (*left + 1.0).min(burst));
    }
}

/// Bounds how often secrets can be guessed.
#[derive(Debug)]
pub struct GuessLimit {
    names: Table,
    addresses: Table,
}

impl GuessLimit {
    /// Nobody has failed yet.
    pub fn new(now: Instant) -> Self {
        Self { names: Table::new(BY_NAME, now), addresses: Table::new(BY_ADDRESS, now) }
    }

    /// Takes one try for a name (none: a secret that nobody can guess) from an address (none on the local socket). It
    /// counts as a failure until `succeeded`, so that tries at the same time do not get around the limit.
    ///
    /// # Errors
    /// How long to wait.
    pub fn attempt(&self, name: Option<&str>, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        address.map_or(Ok(()), |address| self.addresses.take(&address, now))?;
        name.map_or(Ok(()), |name| self.names.take(&name, now)).inspect_err(|_| {
            if let Some(address) = address {
                self.addresses.give_back(&address, now);
            }
        })
    }

    /// The try was no failure.
    pub fn succeeded(&self, name: Option<&str>, address: Option<IpAddr>, now: Instant) {
        if let Some(name) = name {
            self.names.give_back(&name, now);
        }
        if let Some(address) = address {
            self.addresses.give_back(&address, now);
        }
    }
}

/// Lets so much through a minute, and counts what it held back.
#[derive(Debug)]
pub struct Trickle {
    table: Table,
    held: std::sync::atomic::AtomicU64,
}

impl Trickle {
    /// At most 60 at once, and one a second.
    pub fn new(now: Instant) -> Self {
        let rate = Rate { burst: 60.0, every: Duration::from_secs(1) };
        Self { table: Table::new(rate, now), held: 0.into() }
    }

    /// Whether this one goes through; then with how many were held back before it.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.table.take(&(), now).is_ok() {
            return Some(self.held.swap(0, Relaxed));
        }
        self.held.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_bounded_by_name_and_by_address() {
        let start = Instant::now();
        let limit = GuessLimit::new(start);
        let address = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        // One name, from everywhere.
        let by_name = (0..200).filter(|n| limit.attempt(Some("admin"), address(*n), start).is_ok()).count();
        assert_eq!(by_name, 10);
        // Every name, from one address.
        let limit = GuessLimit::new(start);
        let tries =
            |now| (0..10_000).filter(|n| limit.attempt(Some(&format!("user{n}")), address(1), now).is_ok()).count();
        assert_eq!(tries(start), 20);
        assert_eq!(tries(start + Duration::from_secs(6)), 2);
        let wait = limit.attempt(Some("user1"), address(1), start + Duration::from_secs(6)).unwrap_err();
        assert!(wait <= Duration::from_secs(3) && wait > Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn who_succeeds_is_never_limited() {
        let start = Instant::now();
        let limit = GuessLimit::new(start);
        for _ in 0..1000 {
            limit.attempt(Some("admin"), None, start).unwrap();
            limit.succeeded(Some("admin"), None, start);
        }
    }

    #[test]
    fn a_trickle_counts_what_it_holds_back() {
        let start = Instant::now();
        let trickle = Trickle::new(start);
        assert_eq!((0..100).filter(|_| trickle.pass(start).is_some()).count(), 60);
        assert_eq!(trickle.pass(start + Duration::from_secs(1)), Some(40));
    }
}
