//! Extended attributes of a file that is replaced: access control lists, labels, and user attributes.
//!
//! An access control list is such an attribute, and the group bits of the mode are then its mask: with the mode alone,
//! the group could read what the list denies. Therefore a new file gets every attribute of the old one, or isn't
//! written.

use std::ffi::{CStr, CString};
use std::fs::File;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// The largest list or value on Linux (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`), in bytes.
const MAX: usize = 64 << 10;
/// The access control list; a new file may inherit one from its directory.
const ACCESS: &CStr = c"system.posix_acl_access";
/// Attributes that the kernel sets itself, depending on the contents.
const KERNEL_ATTRIBUTES: [&CStr; 3] = [c"security.ima", c"security.evm", c"com.apple.provenance"];

/// Names and values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<(CString, Vec<u8>)>);

impl Attributes {
    /// The attributes of a file; empty if its file system has none.
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

    /// Removes the access control list that a new file inherited from its directory.
    pub(super) fn clear_access(file: &File) -> Result<(), String> {
        match fremovexattr(file, ACCESS) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(wrong(ACCESS, "removed", error)),
        }
    }

    /// Sets the attributes of a new file, after its mode and owner.
    pub(super) fn give(&self, file: &File) -> Result<(), String> {
        for (name, kept) in &self.0 {
            if KERNEL_ATTRIBUTES.contains(&name.as_c_str()) {
                continue;
            }
            // A new file may already have the same label, and its owner may not be allowed to set
            // it.
            if value(file, name).is_ok_and(|it| it.as_ref() == Some(kept)) {
                continue;
            }
            fsetxattr(file, name, kept, XattrFlags::empty())
                .map_err(|error| wrong(name, "set", error))?;
        }
        Ok(())
    }
}

/// The value of an attribute, if it exists.
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
