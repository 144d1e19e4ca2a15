//! Inspects a process from outside: its memory and its environment, as the kernel shows them.
//!
//! A search without a result proves nothing without a control: pass a needle that must be found.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

use memchr::memmem;

/// The number of bytes per read.
const CHUNK: usize = 1 << 20;

/// The number of occurrences of each of `needles` in the memory of `pid`, in their order.
///
/// # Errors
/// If the kernel denies access to this process, or the process is gone.
pub fn count(pid: u32, needles: &[&[u8]]) -> io::Result<Vec<usize>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut search = Search::new(needles);
    for range in maps.lines().filter_map(readable) {
        search.scan(range, CHUNK, |buffer, at| memory.read_at(buffer, at));
    }
    Ok(search.counts)
}

/// The largest resident size of `pid` since it started, or since [`restart_peak`], in bytes.
///
/// # Errors
/// There is no such process.
pub fn peak(pid: u32) -> io::Result<u64> {
    of_status(pid, "VmHWM:")
}

/// Resets [`peak`], and returns the current resident size in bytes.
///
/// # Errors
/// The process belongs to another user, or there is none.
pub fn restart_peak(pid: u32) -> io::Result<u64> {
    // proc(5): 5 resets the peak.
    fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    of_status(pid, "VmRSS:")
}

fn of_status(pid: u32, name: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("no {name} in\n{status}")))
}

/// The number of open descriptors of `pid`.
///
/// # Errors
/// The process belongs to another user, or there is none.
pub fn descriptors(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// A count of needles over several ranges.
struct Search<'n> {
    finders: Vec<memmem::Finder<'n>>,
    overlap: usize,
    counts: Vec<usize>,
    buffer: Vec<u8>,
}

impl<'n> Search<'n> {
    fn new(needles: &[&'n [u8]]) -> Self {
        Self {
            finders: needles.iter().map(|needle| memmem::Finder::new(*needle)).collect(),
            overlap: needles.iter().map(|needle| needle.len()).max().unwrap_or(1) - 1,
            counts: vec![0; needles.len()],
            buffer: Vec::new(),
        }
    }

    /// Reads a range piece by piece; an occurrence across two pieces counts once.
    fn scan(
        &mut self,
        (start, end): (u64, u64),
        piece: usize,
        read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) {
        let mut kept = 0;
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).map_or(piece, |left| left.min(piece));
            self.buffer.resize(kept + wanted, 0);
            // Pages may go away while the process runs.
            let Ok(read) = read_at(&mut self.buffer[kept..], at) else { break };
            if read == 0 {
                break;
            }
            let bytes = &self.buffer[..kept + read];
            for (count, finder) in self.counts.iter_mut().zip(&self.finders) {
                // Matches entirely within the kept part were already counted.
                let seen = kept.saturating_sub(finder.needle().len() - 1);
                *count += finder.find_iter(&bytes[seen..]).count();
            }
            let tail = bytes.len().saturating_sub(self.overlap);
            kept = bytes.len() - tail;
            self.buffer.copy_within(tail..tail + kept, 0);
            at += read as u64;
        }
    }
}

/// The environment that the kernel shows for `pid`, `NAME=value` each.
///
/// # Errors
/// If the kernel denies access to this process, or the process is gone.
pub fn environment(pid: u32) -> io::Result<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    let variables = bytes.split(|byte| *byte == 0).filter(|variable| !variable.is_empty());
    Ok(variables.map(|variable| String::from_utf8_lossy(variable).into_owned()).collect())
}

/// The resident memory of `pid` in bytes.
///
/// # Errors
/// If the process is gone.
pub fn resident(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.unwrap_or_default() * 1024)
}

/// The range of a line of `/proc/PID/maps`, if its pages can be read.
fn readable(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let range = fields.next()?;
    let mode = fields.next()?;
    let kernel = [" [vvar", "[vsyscall]"].iter().any(|name| line.contains(name));
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (mode.starts_with('r') && !kernel).then_some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn needles_in_another_process_are_counted_and_absent_ones_are_not() {
        let mut child = Command::new("cat")
            .env_clear()
            .env("CONTROL", "held-by-the-child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The child has echoed a line, so it already runs its own program with its own environment.
        child.stdin.as_mut().unwrap().write_all(b"line\n").unwrap();
        let mut line = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();

        let counts = count(child.id(), &[b"held-by-the-child", b"held-by-nobody-at-all"]).unwrap();
        assert!(counts[0] > 0, "{counts:?}");
        assert_eq!(counts[1], 0);
        assert_eq!(environment(child.id()).unwrap(), ["CONTROL=held-by-the-child"]);
        assert!(resident(child.id()).unwrap() > 0);

        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_match_across_two_pieces_counts_once() {
        let bytes = b"needle..needle.....needleneedle...nee.dle..pin";
        let read_at = |buffer: &mut [u8], at: u64| {
            let from = &bytes[usize::try_from(at).unwrap()..];
            let length = buffer.len().min(from.len());
            buffer[..length].copy_from_slice(&from[..length]);
            Ok(length)
        };
        for piece in 1..=bytes.len() {
            let mut search = Search::new(&[b"needle", b"pin", b"none"]);
            search.scan((0, bytes.len() as u64), piece, read_at);
            assert_eq!(search.counts, [4, 1, 0], "pieces of {piece}");
        }
    }
}
