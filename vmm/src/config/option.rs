//! The values of command line options, `KEY=VALUE` joined by commas, into pieces of the wire configuration.
//!
//! A comma inside a value is written twice (`path=/a,,b`). A switch such as `readonly` may stand alone or be `=on` or
//! `=off`. Runs on the main thread. It must not judge numbers against bounds: `check.rs` does, for JSON as well.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::error::ConfigError;
use super::parse::{FdName, ParseError, size};
use super::plan::FdGrant;
use super::wire::{
    BalloonConfig, CpuConfig, DiskConfig, DiskFormat, MemoryConfig, NetConfig, NumaConfig, TopologyConfig, VhostMode,
    VsockConfig,
};

/// `--cpus N[,sockets=N][,cores=N][,threads=N]`, laid over what the configuration file said.
pub fn cpus(text: &str, config: &mut CpuConfig) -> Result<(), ConfigError> {
    let mut pairs = Pairs::split("--cpus", "count", text)?;
    config.count = pairs.need("count", "how many vCPUs, such as --cpus 2", Pairs::number)?;
    let (sockets, cores, threads) = (pairs.number("sockets")?, pairs.number("cores")?, pairs.number("threads")?);
    config.topology = (sockets.is_some() || cores.is_some() || threads.is_some()).then(|| TopologyConfig {
        sockets: sockets.unwrap_or(1),
        cores: cores.unwrap_or(1),
        threads: threads.unwrap_or(1),
    });
    pairs.finish("sockets, cores or threads")
}

/// `--memory SIZE[,hugepages=none|2M|1G][,prefault][,shared]`, laid over what the configuration file said.
pub fn memory(text: &str, config: &mut MemoryConfig) -> Result<(), ConfigError> {
    let mut pairs = Pairs::split("--memory", "size", text)?;
    config.size_bytes = pairs.need("size", "how much memory, such as --memory 2G", Pairs::size)?;
    config.hugepages = pairs.word("hugepages")?.unwrap_or(config.hugepages);
    config.prefault = pairs.switch("prefault")?.unwrap_or(config.prefault);
    config.shared = pairs.switch("shared")?.unwrap_or(config.shared);
    pairs.finish("hugepages, prefault or shared")
}

/// `--numa memory=SIZE,cpus=A-B[,distances=N:N:…]`.
pub fn numa(text: &str) -> Result<NumaConfig, ConfigError> {
    let mut pairs = Pairs::split("--numa", "", text)?;
    let node = NumaConfig {
        size_bytes: pairs.need("memory", "the node's share of the memory, such as memory=1G", Pairs::size)?,
        cpus: pairs.need("cpus", "the node's vCPUs, such as cpus=0-1", Pairs::text)?,
        distances: distances(&mut pairs)?,
    };
    pairs.finish("memory, cpus or distances").map(|()| node)
}

fn distances(pairs: &mut Pairs) -> Result<Vec<u8>, ConfigError> {
    let Some(text) = pairs.text("distances")? else { return Ok(Vec::new()) };
    let reason = "distances are numbers from 10 to 255 joined by ':', such as 10:20";
    let refused = || ConfigError::new("--numa", &text, reason).at_key("distances");
    text.split(':').map(|part| digits(part).ok_or_else(refused)).collect()
}

/// `--disk path=PATH[,id=ID][,readonly][,format=raw|qcow2][,direct][,queues=N][,iops=N][,bps=N][,serial=TEXT]`.
pub fn disk(text: &str) -> Result<DiskConfig, ConfigError> {
    let mut pairs = Pairs::split("--disk", "", text)?;
    let disk = DiskConfig {
        path: pairs.need("path", "the image, such as path=disk.img", Pairs::text)?,
        id: pairs.text("id")?,
        readonly: pairs.switch("readonly")?.unwrap_or(false),
        format: pairs.word::<DiskFormat>("format")?.unwrap_or_default(),
        direct: pairs.switch("direct")?.unwrap_or(false),
        queues: pairs.number("queues")?.unwrap_or(1),
        iops: pairs.number("iops")?,
        bps: pairs.size("bps")?,
        serial: pairs.text("serial")?,
    };
    pairs.finish("path, id, readonly, format, direct, queues, iops, bps or serial").map(|()| disk)
}

/// `--net tap=NAME[,id=ID][,mac=MAC][,queues=N][,vhost=auto|on|off]`.
pub fn net(text: &str) -> Result<NetConfig, ConfigError> {
    let mut pairs = Pairs::split("--net", "", text)?;
    let net = NetConfig {
        tap: pairs.need("tap", "the tap interface, such as tap=tap0", Pairs::text)?,
        id: pairs.text("id")?,
        mac: pairs.text("mac")?,
        queues: pairs.number("queues")?.unwrap_or(1),
        vhost: pairs.word::<VhostMode>("vhost")?.unwrap_or_default(),
    };
    pairs.finish("tap, id, mac, queues or vhost").map(|()| net)
}

/// `--vsock cid=N,socket=PATH`.
pub fn vsock(text: &str) -> Result<VsockConfig, ConfigError> {
    let mut pairs = Pairs::split("--vsock", "", text)?;
    let vsock = VsockConfig {
        cid: pairs.need("cid", "the guest's context id, such as cid=3", Pairs::number)?,
        socket: pairs.need("socket", "the host's unix socket, such as socket=vm.sock", Pairs::text)?,
    };
    pairs.finish("cid or socket").map(|()| vsock)
}

/// `--balloon[=size=SIZE][,deflate-on-oom=on|off][,free-page-reporting=on|off]`.
pub fn balloon(text: &str) -> Result<BalloonConfig, ConfigError> {
    let mut pairs = Pairs::split("--balloon", "", text)?;
    let default = BalloonConfig::default();
    let balloon = BalloonConfig {
        size_bytes: pairs.size("size")?.unwrap_or(default.size_bytes),
        deflate_on_oom: pairs.switch("deflate-on-oom")?.unwrap_or(default.deflate_on_oom),
        free_page_reporting: pairs.switch("free-page-reporting")?.unwrap_or(default.free_page_reporting),
    };
    pairs.finish("size, deflate-on-oom or free-page-reporting").map(|()| balloon)
}

/// `--fd NAME=NUM`: the inherited descriptor NUM gets a name.
pub fn fd_grant(text: &str) -> Result<FdGrant, ConfigError> {
    let refused = |reason: &dyn std::fmt::Display| ConfigError::new("--fd", text, reason);
    let (name, number) =
        text.split_once('=').ok_or_else(|| refused(&"give NAME=NUM, such as disk=3, and use it as fd:disk"))?;
    let name = FdName::try_from(name).map_err(|reason| refused(&reason))?;
    let number: i32 = digits(number).ok_or_else(|| refused(&"the part after '=' is the number of a descriptor"))?;
    if number <= 2 {
        return Err(refused(&"0, 1 and 2 are standard input, output and errors; pass it as 3 or higher"));
    }
    Ok(FdGrant { name, number })
}

/// One of the words that the type's wire form knows.
pub fn word<'de, T: Deserialize<'de>>(option: &'static str, text: &'de str) -> Result<T, ConfigError> {
    let words: StrDeserializer<'de, ValueError> = text.into_deserializer();
    T::deserialize(words).map_err(|error| ConfigError::new(option, text, error))
}

/// Digits only: no sign, no space, nothing that `FromStr` would also take.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The keys and values of one option, taken out one by one.
struct Pairs {
    option: &'static str,
    left: Vec<(String, Value)>,
}

/// What stood behind a key.
enum Value {
    /// `key=text`.
    Text(String),
    /// `key` alone.
    Absent,
}

impl Pairs {
    /// Splits `text`. Its first piece may leave out its key when `first` says what the key would be.
    fn split(option: &'static str, first: &str, text: &str) -> Result<Self, ConfigError> {
        let mut left: Vec<(String, Value)> = Vec::new();
        if text.is_empty() {
            return Ok(Self { option, left });
        }
        for piece in pieces(text) {
            let pair = match piece.split_once('=') {
                Some((key, value)) => (key.to_owned(), Value::Text(value.to_owned())),
                None if left.is_empty() && !first.is_empty() => (first.to_owned(), Value::Text(piece)),
                None => (piece, Value::Absent),
            };
            if pair.0.is_empty() {
                return Err(ConfigError::new(option, text, "there is an empty piece; write KEY=VALUE between commas"));
            }
            if left.iter().any(|(key, _)| *key == pair.0) {
                return Err(ConfigError::new(option, text, format!("'{}' is given twice; keep one", pair.0)));
            }
            left.push(pair);
        }
        Ok(Self { option, left })
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        let index = self.left.iter().position(|(name, _)| name == key)?;
        Some(self.left.swap_remove(index).1)
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Text(value)) if !value.is_empty() => Ok(Some(value)),
            Some(_) => Err(ConfigError::new(self.option, "", format!("it needs a value; write {key}=…")).at_key(key)),
        }
    }

    fn need<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&mut Self, &str) -> Result<Option<T>, ConfigError>,
    ) -> Result<T, ConfigError> {
        let option = self.option;
        read(self, key)?.ok_or_else(|| ConfigError::new(option, "", format!("{key} is missing; give {wanted}")))
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let reason = "a number is needed, and it must not be enormous";
        digits(&text).map(Some).ok_or_else(|| self.refused(key, &text, reason))
    }

    fn size(&mut self, key: &str) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        size(&text).map(Some).map_err(|reason: ParseError| self.refused(key, &text, reason))
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Absent) => Ok(Some(true)),
            Some(Value::Text(value)) => match value.as_str() {
                "on" => Ok(Some(true)),
                "off" => Ok(Some(false)),
                other => Err(self.refused(key, other, "use on or off")),
            },
        }
    }

    fn word<T: for<'de> Deserialize<'de>>(&mut self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        word(self.option, &text).map(Some).map_err(|error| error.at_key(key))
    }

    /// Whatever nobody took is a key that nobody knows.
    fn finish(self, known: &str) -> Result<(), ConfigError> {
        match self.left.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(ConfigError::new(self.option, &key, format!("unknown key; use {known}"))),
        }
    }

    /// The key of a lone first value (`--memory 12Q`) is not what the user wrote, so it is not shown.
    fn refused(&self, key: &str, value: &str, reason: impl std::fmt::Display) -> ConfigError {
        let error = ConfigError::new(self.option, value, reason);
        if matches!((self.option, key), ("--memory", "size") | ("--cpus", "count")) { error } else { error.at_key(key) }
    }
}

/// Splits at single commas; two commas are one comma of the value.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.next_if_eq(&',').is_none() {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut() {
            piece.push(character);
        }
    }
    pieces
}
