//! The header of a packet (virtio 1.3 section 5.10.6), read once into a typed value.
//!
//! Pure. The `virtio-vsock` crate has the like, but on descriptor chains of its own and in one piece of memory each; here a
//! header may be spread over any buffers.

use crate::virtio::SliceList;

/// Length of a header in bytes.
pub(super) const HEADER_LEN: usize = 44;
/// The host's context id.
pub(super) const HOST_CID: u64 = 2;
/// `type` of a stream socket, the only one offered.
pub(super) const STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of the packet will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of the packet will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for (section 5.10.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    /// Asks for a connection.
    Request = 1,
    /// Grants one.
    Response = 2,
    /// Ends or refuses one at once.
    Reset = 3,
    /// Ends one or both directions.
    Shutdown = 4,
    /// Carries data.
    Data = 5,
    /// Tells of credit.
    CreditUpdate = 6,
    /// Asks to be told of credit.
    CreditRequest = 7,
}

impl TryFrom<u16> for Op {
    type Error = u16;

    fn try_from(op: u16) -> Result<Self, u16> {
        let all = [
            Self::Request,
            Self::Response,
            Self::Reset,
            Self::Shutdown,
            Self::Data,
            Self::CreditUpdate,
            Self::CreditRequest,
        ];
        all.into_iter().find(|known| *known as u16 == op).ok_or(op)
    }
}

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// A packet's header in host byte order, as it was written; only its place and length have been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

/// Takes the next `N` bytes; zeros when there are fewer, which a whole header rules out.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    match bytes.split_first_chunk() {
        Some((first, rest)) => {
            *bytes = rest;
            *first
        }
        None => [0; N],
    }
}

impl Header {
    /// Reads the header at the start of `packet`; `None` when there is not one whole.
    pub(super) fn read(packet: &SliceList) -> Option<Self> {
        let mut bytes = [0; HEADER_LEN];
        (packet.read(0, &mut bytes) == HEADER_LEN).then(|| Self::decode(&bytes))
    }

    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            source_cid: u64::from_le_bytes(take(&mut rest)),
            target_cid: u64::from_le_bytes(take(&mut rest)),
            source_port: u32::from_le_bytes(take(&mut rest)),
            target_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let fields = (self.source_cid.to_le_bytes().into_iter())
            .chain(self.target_cid.to_le_bytes())
            .chain(self.source_port.to_le_bytes())
            .chain(self.target_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.op.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The connection that a packet from the guest belongs to.
    pub(super) fn ports(&self) -> Ports {
        Ports { host: self.target_port, guest: self.source_port }
    }

    /// A packet to the guest, without data, flags and credit.
    pub(super) fn to_guest(cid: u64, ports: Ports, op: Op) -> Self {
        Self {
            source_cid: HOST_CID,
            target_cid: cid,
            source_port: ports.host,
            target_port: ports.guest,
            kind: STREAM,
            op: op as u16,
            ..Self::default()
        }
    }
}
