//! Random lives of volumes against a model: a list of names with the bytes that each must hold.

use proptest::prelude::*;

use super::*;

const SECTOR: u64 = 512;
/// Bytes of the image that some volumes begin with.
const IMAGE: usize = 200 * 1024;

#[derive(Clone, Debug)]
enum Step {
    Create { qcow2: bool, sectors: u64 },
    FromImage { qcow2: bool, linked: bool, more: u64 },
    Write { volume: usize, at: u64, length: usize, byte: u8 },
    Clone { volume: usize, linked: bool },
    Resize { volume: usize, more: u64 },
    Delete { volume: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let volume = 0..8_usize;
    prop_oneof![
        (any::<bool>(), 1..1200_u64).prop_map(|(qcow2, sectors)| Step::Create { qcow2, sectors }),
        (any::<bool>(), any::<bool>(), 0..600_u64).prop_map(|(qcow2, linked, more)| Step::FromImage {
            qcow2: qcow2 || linked,
            linked,
            more
        }),
        (volume.clone(), 0..600_000_u64, 1..150_000_usize, any::<u8>())
            .prop_map(|(volume, at, length, byte)| Step::Write { volume, at, length, byte }),
        (volume.clone(), any::<bool>()).prop_map(|(volume, linked)| Step::Clone { volume, linked }),
        (volume.clone(), 0..600_u64).prop_map(|(volume, more)| Step::Resize { volume, more }),
        volume.prop_map(|volume| Step::Delete { volume }),
    ]
}

struct Wanted {
    name: String,
    bytes: Vec<u8>,
    base: Option<String>,
}

struct Play {
    room: Room,
    image: Vec<u8>,
    wanted: Vec<Wanted>,
    made: usize,
}

impl Play {
    fn add(&mut self, bytes: Vec<u8>, base: Option<String>) {
        self.wanted.push(Wanted { name: format!("v{}", self.made), bytes, base });
        self.made += 1;
    }

    fn pick(&self, volume: usize) -> Option<usize> {
        (!self.wanted.is_empty()).then(|| volume % self.wanted.len())
    }

    fn is_base(&self, index: usize) -> bool {
        self.wanted.iter().any(|other| other.base.as_ref() == Some(&self.wanted[index].name))
    }

    async fn take(&mut self, step: Step) {
        let format = |qcow2| if qcow2 { VolumeFormat::Qcow2 } else { VolumeFormat::Raw };
        let name = format!("v{}", self.made);
        match step {
            Step::Create { qcow2, sectors } => {
                self.room.create(new_volume(&name, sectors * SECTOR, format(qcow2))).await.unwrap();
                self.add(vec![0; (sectors * SECTOR) as usize], None);
            }
            Step::FromImage { qcow2, linked, more } => {
                let mut new = from_image(&name, "image", format(qcow2), linked);
                new.size_bytes = IMAGE as u64 + more * SECTOR;
                let mut bytes = self.image.clone();
                bytes.resize(new.size_bytes as usize, 0);
                self.room.create(new).await.unwrap();
                self.add(bytes, None);
            }
            Step::Write { volume, at, length, byte } => {
                let Some(index) = self.pick(volume) else { return };
                let held = self.is_base(index);
                let wanted = &mut self.wanted[index];
                let at = (at as usize).min(wanted.bytes.len() - 1);
                let end = (at + length).min(wanted.bytes.len());
                let all = self.room.volumes().await;
                let record = all.iter().find(|v| v.name.as_str() == wanted.name).unwrap();
                let written = self.room.write(record, &vec![byte; end - at], at as u64).await;
                assert_eq!(written.is_err(), held);
                if !held {
                    wanted.bytes[at..end].fill(byte);
                }
            }
            Step::Clone { volume, linked } => {
                let Some(index) = self.pick(volume) else { return };
                let (from, bytes) = (self.wanted[index].name.clone(), self.wanted[index].bytes.clone());
                self.room.clone_of(&from, &name, linked).await.unwrap();
                self.add(bytes, linked.then_some(from));
            }
            Step::Resize { volume, more } => {
                let Some(index) = self.pick(volume) else { return };
                let held = self.is_base(index);
                let wanted = &mut self.wanted[index];
                let to = wanted.bytes.len() + (more * SECTOR) as usize;
                assert_eq!(self.room.resize(&wanted.name, to as u64).await.is_err(), held);
                if !held {
                    wanted.bytes.resize(to, 0);
                }
            }
            Step::Delete { volume } => {
                let Some(index) = self.pick(volume) else { return };
                let held = self.is_base(index);
                assert_eq!(self.room.delete(&self.wanted[index].name).await.is_err(), held);
                if !held {
                    self.wanted.remove(index);
                }
            }
        }
    }

    async fn compare(&self) {
        let volumes = self.room.volumes().await;
        assert_eq!(volumes.len(), self.wanted.len());
        assert_eq!(self.room.files().len(), volumes.len() + 1);
        for wanted in &self.wanted {
            let volume = volumes.iter().find(|volume| volume.name.as_str() == wanted.name).unwrap();
            assert!(self.room.contents(&volume.id).await == wanted.bytes, "{} holds something else", wanted.name);
            if volume.format == VolumeFormat::Qcow2 {
                check(&self.room.path_of(volume));
            }
        }
    }
}

async fn play(steps: Vec<Step>) {
    let room = Room::new().await;
    let image = pattern(IMAGE, 1);
    room.image("image", &image).await;
    let mut play = Play { room, image, wanted: Vec::new(), made: 0 };
    for step in steps {
        play.take(step).await;
    }
    play.compare().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn volumes_hold_what_was_written(steps in prop::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(steps));
    }
}
