use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How a disk lies in its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// As it is.
    #[default]
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// VMware virtual disk.
    Vmdk,
    /// Microsoft virtual disk of Virtual PC and Hyper-V generation 1.
    Vhd,
    /// Microsoft virtual disk of Hyper-V.
    Vhdx,
}

impl Format {
    /// The name QEMU gives it.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
        }
    }

    /// Whether the name of a file says this format. That of a flat file beside a descriptor of
    /// VMware's does not: its guest writes all of it.
    pub(crate) fn is_said_by(self, path: &Path) -> bool {
        let text = |part: Option<&std::ffi::OsStr>| {
            part.and_then(|part| part.to_str()).unwrap_or_default().to_ascii_lowercase()
        };
        let (stem, extension) = (text(path.file_stem()), text(path.extension()));
        let flat = stem.rsplit_once('-').is_some_and(|(_, end)| {
            let number = end.strip_prefix('f').unwrap_or_default();
            end == "flat" || (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        });
        self.has_extension(&extension) && !(self == Self::Vmdk && flat)
    }

    /// Whether a file's extension says this format.
    pub(crate) fn has_extension(self, extension: &str) -> bool {
        let extension = extension.to_ascii_lowercase();
        match self {
            Self::Raw => ["raw", "img"].contains(&extension.as_str()),
            Self::Qcow2 => ["qcow2", "qcow"].contains(&extension.as_str()),
            Self::Vmdk => extension == "vmdk",
            Self::Vhd => ["vhd", "vpc"].contains(&extension.as_str()),
            Self::Vhdx => extension == "vhdx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vhd => "vhd",
            other => other.qemu(),
        })
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "raw" => Self::Raw,
            "qcow2" => Self::Qcow2,
            "vmdk" => Self::Vmdk,
            "vhd" | "vpc" => Self::Vhd,
            "vhdx" => Self::Vhdx,
            other => {
                return Err(format!("{other:?} is none of raw, qcow2, vmdk, vhd, vhdx"));
            }
        })
    }
}
