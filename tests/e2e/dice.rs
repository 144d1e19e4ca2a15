//! Random numbers that are the same in every run, so that a failure can be reproduced.

pub(crate) struct Dice(u64);

impl Dice {
    /// Similar seeds give unrelated sequences (splitmix64).
    pub(crate) fn new(seed: u64) -> Self {
        let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The state must not be 0.
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of this kind of generator are the least random.
        usize::try_from((self.0 >> 20) % sides as u64).unwrap()
    }

    /// Whether something with this probability happens.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.roll(choices.len())]
    }

    pub(crate) fn text(&mut self, letters: &str, length: usize) -> String {
        let letters: Vec<_> = letters.chars().collect();
        (0..length).map(|_| letters[self.roll(letters.len())]).collect()
    }
}
