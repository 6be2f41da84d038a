//! The way to a pool's files: each call on a thread of its own, with a deadline, and only so many at a time for one pool.
//!
//! A server that does not answer keeps its threads inside the kernel, sometimes for ever. They are not the async runtime's threads, so
//! nothing else waits for them, neither work on other pools nor the daemon's end; and there are never more than [`THREADS`] of them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::{Meter, StorageError, StorageFault};

/// Calls on one pool at a time.
const THREADS: usize = 16;
/// A copy that does not move for so long is given up.
const SILENCE: Duration = Duration::from_mins(2);

/// One pool's way.
#[derive(Clone)]
pub struct Gate {
    name: Arc<str>,
    permits: Arc<Semaphore>,
    silence: Duration,
}

impl Gate {
    /// The way to the pool of this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), permits: Arc::new(Semaphore::new(THREADS)), silence: SILENCE }
    }

    #[cfg(test)]
    pub fn with_silence(name: &str, silence: Duration) -> Self {
        Self { silence, ..Self::new(name) }
    }

    /// Does something short. What is done after the deadline is lost: `work` must leave nothing that would be missed.
    ///
    /// # Errors
    /// What `work` says; `Deadline` when the pool did not answer in time.
    pub async fn call<T, F>(&self, action: &str, patience: Duration, work: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, StorageError> + Send + 'static,
    {
        let deadline = Instant::now() + patience;
        let answer = timeout_at(deadline, self.start(work)).await.map_err(|_| self.late(action, patience))??;
        match timeout_at(deadline, answer).await {
            Ok(answer) => self.told(action, answer),
            Err(_) => Err(self.late(action, patience)),
        }
    }

    /// Does something that takes as long as it takes, but has to move. When this gives up, `work` is told to stop by its meter.
    ///
    /// # Errors
    /// What `work` says; `Deadline` when it did not move for two minutes.
    pub async fn long<T, F>(&self, action: &str, meter: &Meter, work: F) -> Result<T, StorageError>
    where
        T: Send + 'static,
        F: FnOnce(&Meter) -> Result<T, StorageError> + Send + 'static,
    {
        // Somebody else's work may hold all threads for long; a wish to stop is heard even then.
        let own = meter.child();
        let inner = own.clone();
        let mut answer = tokio::select! {
            started = self.start(move || work(&inner)) => started?,
            () = meter.stop_token().cancelled() => return Err(StorageError::cancelled()),
        };
        // Dropped before the end (the caller has gone away): the work has to stop as well.
        let _stop = own.stop_token().clone().drop_guard();
        own.check().ok();
        loop {
            let left = self.silence.saturating_sub(own.silence());
            tokio::select! {
                answer = &mut answer => return self.told(action, answer),
                () = sleep(left) => {}
            }
            if own.silence() >= self.silence {
                return Err(self.late(action, self.silence));
            }
        }
    }

    async fn start<T, F>(&self, work: F) -> Result<oneshot::Receiver<Result<T, StorageError>>, StorageError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, StorageError> + Send + 'static,
    {
        let permit = self.permits.clone().acquire_owned().await;
        let (tell, answer) = oneshot::channel();
        let body = move || {
            let result = work();
            drop(permit);
            // Nobody may be waiting any more.
            drop(tell.send(result));
        };
        let spawned = thread::Builder::new().name("pool".into()).spawn(body);
        spawned.map_err(|error| StorageError::io("start a thread for", self.name.as_ref().as_ref(), error))?;
        Ok(answer)
    }

    fn told<T>(
        &self,
        action: &str,
        answer: Result<Result<T, StorageError>, oneshot::error::RecvError>,
    ) -> Result<T, StorageError> {
        answer.unwrap_or_else(|_| {
            let what = format!("Could not {action} in pool {}: the work panicked, see the daemon's log", self.name);
            Err(StorageError::new(StorageFault::Host, what))
        })
    }

    fn late(&self, action: &str, patience: Duration) -> StorageError {
        let what = format!(
            "Could not {action} in pool {}: it did not answer for {} s; look at its disk or server",
            self.name,
            patience.as_secs_f32()
        );
        StorageError::new(StorageFault::Deadline, what)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A call that hangs until its sender is dropped.
    fn stuck() -> (mpsc::Sender<()>, impl FnOnce() -> Result<(), StorageError> + Send + 'static) {
        let (release, wait) = mpsc::channel::<()>();
        (release, move || {
            wait.recv().ok();
            Ok(())
        })
    }

    #[tokio::test]
    async fn a_stuck_pool_costs_its_callers_a_deadline_and_nobody_else_anything() {
        let (bad, good) = (Gate::new("bad"), Gate::new("good"));
        let mut hold = Vec::new();
        for _ in 0..THREADS {
            let (release, work) = stuck();
            hold.push(release);
            let error = bad.call("look", Duration::from_millis(5), work).await.unwrap_err();
            assert_eq!(error.fault(), StorageFault::Deadline);
        }
        // All threads hang: no further one is started, and the deadline still holds.
        let error = bad.call("look", Duration::from_millis(5), || Ok(())).await.unwrap_err();
        assert!(error.to_string().contains("pool bad"), "{error}");
        good.call("look", Duration::from_secs(5), || Ok(())).await.unwrap();
        drop(hold);
        bad.call("look", Duration::from_secs(5), || Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_does_not_move_is_given_up_and_told_so() {
        let gate = Gate::with_silence("bad", Duration::from_millis(20));
        let (told, hear) = mpsc::channel();
        let hang = move |meter: &Meter| {
            while !meter.stop_token().is_cancelled() {
                thread::yield_now();
            }
            told.send(()).unwrap();
            meter.check()
        };
        let error = gate.long("copy", &Meter::silent(), hang).await.unwrap_err();
        assert_eq!(error.fault(), StorageFault::Deadline);
        hear.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    #[tokio::test]
    async fn panics_and_wishes_to_stop_become_errors() {
        let gate = Gate::new("p");
        let error = gate.call("look", Duration::from_secs(5), || -> Result<(), _> { panic!("on purpose") }).await;
        assert!(error.unwrap_err().to_string().contains("panicked"));
        let stop = CancellationToken::new();
        stop.cancel();
        let meter = Meter::new(stop, |_, _| {});
        let error = gate.long("copy", &meter, Meter::check).await.unwrap_err();
        assert_eq!(error.fault(), StorageFault::Cancelled);
    }
}
