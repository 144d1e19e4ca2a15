//! What measurements share.

/// The middle one.
///
/// # Panics
/// If there is none, or one is no number.
pub fn median<T: PartialOrd + Copy>(all: &[T]) -> T {
    let mut sorted = all.to_vec();
    sorted.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap());
    sorted[sorted.len() / 2]
}
