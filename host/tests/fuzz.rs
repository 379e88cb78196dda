//! The fuzz targets of fuzz/, with their seeds and with mutations of them, for a
//! few seconds: `make fuzz` is the long form, and needs a nightly toolchain.

use std::path::Path;

#[path = "../../fuzz/bodies/deploying.rs"]
mod deploying;
#[path = "../../fuzz/bodies/reading.rs"]
mod reading;

/// A fixed generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).unwrap_or_default()
    }

    /// A seed with a few bytes changed, cut, doubled, or taken from another one.
    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.0 as u8),
                2 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                3 if !bytes.is_empty() => bytes[at] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                4 => {
                    let end = (at + self.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    let end = (from + self.below(64)).min(other.len());
                    bytes.splice(at..at, other[from..end].iter().copied());
                }
            }
        }
        bytes
    }
}

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds")).join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a seed"))
        .collect()
}

/// How many times as many rounds as usual: `TIDEMILL_FUZZ`.
fn times() -> usize {
    let told = std::env::var("TIDEMILL_FUZZ").ok();
    told.and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn survives(target: &str, rounds: usize, body: fn(&[u8])) {
    let seeds = seeds(target);
    for seed in &seeds {
        body(seed);
    }
    let mut random = Random(0x5eed);
    for _ in 0..rounds * times() {
        body(&random.mutated(&seeds));
    }
}

#[test]
fn any_manifest_is_survived() {
    survives("manifest", 20_000, reading::manifest);
}

#[test]
fn any_section_is_survived() {
    survives("section", 50_000, reading::section);
}

#[test]
fn any_component_is_survived() {
    survives("deploy", 5_000, deploying::deploy);
    deploying::tidy();
}
