//! The API's enumerations as words: `VM_STATE_RUNNING` is `running` to people. Names come from the protos, so there is no
//! table to keep.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use quantix_api::v1;

use crate::style::Tone;

/// An enumeration of the API.
pub trait Word: TryFrom<i32> + Clone + Send + Sync + 'static {
    /// What all of its names begin with.
    const PREFIX: &'static str;
    /// The name in the proto.
    fn proto_name(&self) -> &'static str;
    /// The value of a name.
    fn from_proto_name(name: &str) -> Option<Self>;

    /// What people call it.
    fn word(&self) -> String {
        self.proto_name().trim_start_matches(Self::PREFIX).to_ascii_lowercase().replace('_', "-")
    }
}

macro_rules! words {
    ($($kind:ident: $prefix:literal),* $(,)?) => {$(
        impl Word for v1::$kind {
            const PREFIX: &'static str = $prefix;
            fn proto_name(&self) -> &'static str {
                self.as_str_name()
            }
            fn from_proto_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        }
    )*};
}

words! {
    ExitCause: "EXIT_CAUSE_",
    FirewallAction: "FIREWALL_ACTION_",
    Direction: "DIRECTION_",
    HugePages: "HUGE_PAGES_",
    ImageFormat: "IMAGE_FORMAT_",
    ImageKind: "IMAGE_KIND_",
    NetworkState: "NETWORK_STATE_",
    PoolState: "POOL_STATE_",
    RestartMode: "RESTART_MODE_",
    Role: "ROLE_",
    Severity: "SEVERITY_",
    TaskState: "TASK_STATE_",
    VmState: "VM_STATE_",
    VolumeFormat: "VOLUME_FORMAT_",
}

/// The word for a value as it came over the wire; a number when the node is newer than this program.
pub fn word<W: Word>(raw: i32) -> String {
    W::try_from(raw).map_or_else(|_| raw.to_string(), |value| value.word())
}

/// The value of a word.
pub fn value<W: Word>(word: &str) -> Option<W> {
    W::from_proto_name(&format!("{}{}", W::PREFIX, word.to_ascii_uppercase().replace('-', "_")))
}

/// All words but `unspecified`.
pub fn all<W: Word>() -> Vec<String> {
    (1..64).map_while(|raw| W::try_from(raw).ok()).map(|value| value.word()).collect()
}

/// Reads an option that is one of the words.
pub fn parser<W: Word>() -> impl TypedValueParser<Value = W> {
    let words: Vec<&'static str> = all::<W>().into_iter().map(|word| &*word.leak()).collect();
    PossibleValuesParser::new(words).try_map(|word| value::<W>(&word).ok_or("it is not known"))
}

/// How a state of a VM looks.
pub fn vm_tone(state: i32) -> Tone {
    match v1::VmState::try_from(state) {
        Ok(v1::VmState::Running) => Tone::Good,
        Ok(v1::VmState::Failed) => Tone::Bad,
        Ok(v1::VmState::Stopped) => Tone::Dim,
        _ => Tone::Warn,
    }
}

/// How a state of a task looks.
pub fn task_tone(state: i32) -> Tone {
    match v1::TaskState::try_from(state) {
        Ok(v1::TaskState::Succeeded) => Tone::Good,
        Ok(v1::TaskState::Failed) => Tone::Bad,
        Ok(v1::TaskState::Running) => Tone::Accent,
        Ok(v1::TaskState::Cancelled) => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// How a severity looks.
pub fn severity_tone(severity: i32) -> Tone {
    match v1::Severity::try_from(severity) {
        Ok(v1::Severity::Alarm) => Tone::Bad,
        Ok(v1::Severity::Warning) => Tone::Warn,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values_are_each_others_inverse() {
        assert_eq!(all::<v1::Role>(), ["viewer", "operator", "admin"]);
        assert_eq!(value::<v1::RestartMode>("on-failure"), Some(v1::RestartMode::OnFailure));
        assert_eq!(word::<v1::ExitCause>(v1::ExitCause::GuestPanic.into()), "guest-panic");
        for word in all::<v1::VmState>() {
            assert_eq!(value::<v1::VmState>(&word).unwrap().word(), word);
        }
        assert_eq!(value::<v1::HugePages>("2M"), Some(v1::HugePages::HugePages2m));
    }

    #[test]
    fn a_value_of_a_newer_node_is_a_number() {
        assert_eq!(word::<v1::VmState>(4711), "4711");
    }
}
