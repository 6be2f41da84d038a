//! The control socket: who may say what to the machine, and when.
//!
//! ```text
//!            SEQPACKET                    main loop's thread
//!  client ◄─────────────► Session ──► allowed(phase, command)? ──► dispatch ──► dyn Commands (the machine)
//!                            ▲
//!  EventSender (any thread) ─┘ events, bounded for each session
//!
//!  viewer ◄──── stream socket ────► Viewer ◄── ConsoleOutput (ring since power-on) ◄── a console device
//!                                     └──────► dyn ConsoleInput ──────────────────────► a console device
//! ```
//!
//! [`Server`] runs on the main loop's thread: the loop polls one descriptor and calls [`Server::on_ready`]. It spawns no
//! thread, waits for nobody, and everything that it keeps for a client is bounded. It knows no device: the machine
//! implements [`Commands`], and consoles are two traits.
//!
//! Every byte from a client is hostile; so is what the guest prints.

#![forbid(unsafe_code)]

mod commands;
mod console;
mod console_ring;
mod dispatch;
mod events;
mod parts;
mod phase;
mod poller;
mod server;
mod session;

pub use commands::{CommandError, Commands};
pub use console::{ConsoleInput, ConsoleOutput, MAX_VIEWERS};
pub use console_ring::{ConsoleRing, RING_BYTES};
pub use events::{EventReceiver, EventSender, event_queue};
pub use parts::{BalloonControl, Limited, StatisticsListener};
pub use phase::{Phase, WrongPhase, allowed};
pub use quantix_vmm_api::transport::{Listener, TransportError};
pub use quantix_vmm_api::v1;
pub use server::{MAX_SESSIONS, Server, ServerError};
