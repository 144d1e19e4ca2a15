//! Extended attributes of a file that is replaced: access control lists, labels, and what people attach.
//!
//! A list of access is such an attribute, and the group bits of the mode are then its mask: with the mode alone, the group
//! could read what the list denies to it. So a new file has every attribute of the old one, or it isn't made.

use std::ffi::{CStr, CString};
use std::fs::File;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// No list, and no value, is longer on Linux (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX: usize = 64 << 10;
/// The list that says who may open a file; a new file may get one from its directory.
const ACCESS: &CStr = c"system.posix_acl_access";
/// Those that the kernel sets itself, to what the new text is.
const OF_THE_KERNEL: [&CStr; 3] = [c"security.ima", c"security.evm", c"com.apple.provenance"];

/// Names and values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<(CString, Vec<u8>)>);

impl Attributes {
    /// Those of a file; none where its file system has none.
    pub(super) fn of(file: &File) -> Result<Self, String> {
        let mut buffer = vec![0; MAX];
        let length = match flistxattr(file, buffer.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Self::default()),
            Err(error) => return Err(format!("its extended attributes can't be read: {error}")),
        };
        let names = buffer[..length].split_inclusive(|byte| *byte == 0);
        let mut all = Vec::new();
        for name in names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
            if let Some(value) = value(file, name).map_err(|why| wrong(name, "read", why))? {
                all.push((name.to_owned(), value));
            }
        }
        all.sort();
        Ok(Self(all))
    }

    /// Takes from a new file the list of access that its directory gave it.
    pub(super) fn clear_access(file: &File) -> Result<(), String> {
        match fremovexattr(file, ACCESS) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(wrong(ACCESS, "removed", error)),
        }
    }

    /// Gives them to a new file, which has its mode and owner.
    pub(super) fn give(&self, file: &File) -> Result<(), String> {
        for (name, kept) in &self.0 {
            if OF_THE_KERNEL.contains(&name.as_c_str()) {
                continue;
            }
            // A label may be what a new file has by itself, and not be its owner's to set.
            if value(file, name).is_ok_and(|it| it.as_ref() == Some(kept)) {
                continue;
            }
            fsetxattr(file, name, kept, XattrFlags::empty())
                .map_err(|error| wrong(name, "kept", error))?;
        }
        Ok(())
    }
}

/// The value of an attribute, if it is there.
fn value(file: &File, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut buffer = vec![0; MAX];
    match fgetxattr(file, name, buffer.as_mut_slice()) {
        Ok(length) => {
            buffer.truncate(length);
            Ok(Some(buffer))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

fn wrong(name: &CStr, what: &str, error: Errno) -> String {
    format!("its extended attribute {} can't be {what}: {error}", name.to_string_lossy())
}
