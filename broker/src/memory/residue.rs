//! For tests: searches the stack of a thread for a secret after its work.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;

/// The byte that the secret is XORed with: none, or `ipad` or `opad` of HMAC (RFC 2104).
const MASKS: [u8; 3] = [0, 0x36, 0x5c];

/// Runs `work` on a separate thread, and counts the occurrences of `secret` on that thread's stack
/// after it.
pub(crate) fn after(secret: &'static str, work: impl FnOnce() + Send + 'static) -> usize {
    // The same size as a worker's stack.
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let counted = thread.spawn(move || {
        deeper(work);
        count(secret.as_bytes())
    });
    counted.expect("a thread").join().expect("the work ends well")
}

/// Runs the work below the frames of the search, which would overwrite what it searches for.
#[inline(never)]
fn deeper(work: impl FnOnce()) {
    let mut room = [0_u8; 16 * 1024];
    black_box(&mut room);
    work();
    black_box(&mut room);
}

fn count(secret: &[u8]) -> usize {
    let here = 0_u8;
    let here = black_box(&raw const here) as u64;
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux");
    let number = |text| u64::from_str_radix(text, 16).expect("a hexadecimal number");
    let ranges = maps.lines().map(|line| {
        let (start, rest) = line.split_once('-').expect("a range");
        (number(start), number(rest.split_once(' ').expect("a mode").0))
    });
    let mut ranges = ranges.filter(|(start, end)| (*start..*end).contains(&here));
    let (start, end) = ranges.next().expect("the stack is mapped");
    // On the heap: the search must not find its own copy.
    let mut stack = vec![0; usize::try_from(end - start).expect("a size")];
    let memory = File::open("/proc/self/mem").expect("Linux");
    memory.read_exact_at(&mut stack, start).expect("the stack can be read");
    let is_secret = |window: &[u8], dress: u8| {
        window.iter().zip(secret).all(|(found, wanted)| *found == *wanted ^ dress)
    };
    let counts = MASKS
        .map(|dress| stack.windows(secret.len()).filter(|window| is_secret(window, dress)).count());
    counts.iter().sum()
}

/// Proves that the search works: a hash of a text does leave it on the stack.
#[test]
fn a_hash_leaves_what_it_hashed_unless_it_is_wiped() {
    use sha2::{Digest, Sha256};

    const SECRET: &str = "canary-of-a-hash-7mW2kQ0xVb4nLr8sTz6uYc";
    #[inline(never)]
    fn hash() {
        black_box(Sha256::new().chain_update(SECRET).finalize());
    }
    assert!(after(SECRET, hash) > 0);
    assert_eq!(after(SECRET, || super::wiped(hash)), 0);
}
